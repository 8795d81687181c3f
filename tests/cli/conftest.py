"""Runs and data that the commands are called on."""

from __future__ import annotations

import pytest

from tests.cli.commands import run
from tests.images import write_folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A finished run on digits, two epochs."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    code = run(
        "train", "--config", "digits", "--out", out, "--epochs", 2,
        "--optim.warmup_epochs", 1, "--no-progress",
    )  # fmt: skip
    assert code == 0
    return out


@pytest.fixture
def imagenet(tmp_path):
    """Ten classes in ImageNet's layout: JPEG files of differing sizes and modes."""
    folder = tmp_path / "imagenet"
    write_folder(folder, classes=10, train=2, val=1)
    return folder
