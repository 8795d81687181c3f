"""Runs of random settings, killed at random moments, end with the bits of runs that are not."""

from __future__ import annotations

import os
import random

import pytest
from timm.optim import list_optimizers

from tests.training.killed_runs import differences, results, train
from tests.training.random_settings import (
    CHOICES,
    DRAWN_APART,
    NOT_DRAWN,
    draw,
    setting_names,
    write_data,
)

pytestmark = pytest.mark.slow

IN_CI, IN_RELEASE = (1,), 40
REFUSED, FAILED = 2, 1
"""The exit codes of settings that do not fit each other, and of runs that diverge."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_data(root)


def resumed(tmp_path, options, generator):
    """Return the differences from a run that is not killed; None if the settings are refused."""
    log, ranks = tmp_path / "log", 2 if "--strategy" in " ".join(options) else 1
    command = ["train", "--no-progress", *options, "--out"]
    code, moments = train([*command, str(tmp_path / "clean")], log, ranks=ranks)
    assert "traceback is in" not in log.read_text(errors="replace"), log.read_text()
    if code in (REFUSED, FAILED):
        return None
    assert code == 0, log.read_text()
    again = [*command, str(tmp_path / "killed"), "--resume", "auto"]
    for _ in range(generator.randint(1, 2)):
        code, _ = train(again, log, generator.randint(1, moments), ranks)
        assert code in (0, -9), log.read_text()
    code, _ = train(again, log, ranks=ranks)
    assert code == 0, log.read_text()
    return differences(results(tmp_path / "clean"), results(tmp_path / "killed"))


def check_random_settings(tmp_path, data, seed):
    generator = random.Random(seed)
    optimizers = [
        name
        for name in list_optimizers()
        if not name.startswith(("adahessian", "bnb", "fused", "kron"))
    ]
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        options = draw(generator, data, optimizers)
        different = resumed(folder, options, generator)
        if different is not None:
            assert different == [], options
            return
    pytest.fail("20 settings in a row were refused")


@pytest.mark.parametrize("seed", IN_CI)
def test_random_settings_resume_to_the_same_bits(tmp_path, data, seed):
    check_random_settings(tmp_path, data, seed)


@pytest.mark.release
@pytest.mark.parametrize(
    "seed", {*range(int(os.environ.get("KAT_SETTINGS", IN_RELEASE)))} - {*IN_CI}
)
def test_many_random_settings_resume_to_the_same_bits(tmp_path, data, seed):
    check_random_settings(tmp_path, data, seed)


def test_every_setting_is_drawn_or_named_as_not_drawn():
    assert sorted([*CHOICES, *DRAWN_APART, *NOT_DRAWN]) == sorted(setting_names())
