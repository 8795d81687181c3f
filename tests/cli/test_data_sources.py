"""Training and evaluation on each kind of data, as a user calls them."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import run
from tests.data.sources.test_registry import SOURCES
from tests.images import picture
from tests.marks import most_at_night

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.mark.parametrize("source", most_at_night(SOURCES[1:4], SOURCES[1:2]))  # tar, shards, rows
def test_a_run_and_its_evaluation(tmp_path, capsys, source):
    images = [picture(0), picture(1), b"torn", picture(3)]
    data, damaged = source(tmp_path / "data", images)
    out = tmp_path / "run"
    options = ["--data.image_size", "16", "--data.batch_size", "2", "--accelerator", "cpu"]
    options += ["--epochs", "1", "--model.name", "vit_micro_patch8_64", "--no-progress"]
    for name, value in data.items():
        options += [f"--data.{name}", value]
    assert run("train", "--out", out, *options) == 0
    assert damaged.removeprefix("val") in capsys.readouterr().out
    report = tmp_path / "report"
    assert run("eval", out, "--no-progress", "--out", report) == 0
    printed = json.loads((report / "metrics.json").read_text())
    assert (printed["images"], printed["skipped"]) == (3, 1)
    assert len((report / "skipped.csv").read_text().splitlines()) == 2
