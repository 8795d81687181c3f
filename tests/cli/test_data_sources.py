"""Training and evaluation on each kind of data, as a user calls them."""

from __future__ import annotations

import json

import pytest
import safetensors.torch

from tests.cli.commands import refused, run
from tests.data.sources.test_registry import SOURCES
from tests.data.sources.test_table import rows_of, unsplit, write_table
from tests.images import picture, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.mark.parametrize("source", SOURCES[1:4])  # of tar files, shards and rows
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


@pytest.mark.parametrize("whole", [False, True])
def test_a_table_trains_to_the_bits_of_its_folder(tmp_path, capsys, whole):
    """Also through a resumption, which notices another label, and with weights of equal classes."""
    photos = tmp_path / "photos"
    write_folder(photos, classes=2, train=10, val=2)
    if whole:
        unsplit(photos)
    rows = rows_of(photos, whole)
    table = write_table(photos / "labels.csv", rows)
    settings = ["--model.name", "kat_micro_patch8_64", "--model.args", "{depth: 1}"]
    settings += ["--data.image_size", 32, "--data.batch_size", 4, "--augment.hflip", 0.5]
    settings += ["--accelerator", "cpu", "--no-progress"]
    runs = {kind: tmp_path / kind for kind in ("folder", "csv")}
    balanced = ("--loss.class_weights", "balanced")  # each is 1
    for name, out, stops in (
        (f"folder:{photos}", runs["folder"], ()),
        (f"csv:{table}", runs["csv"], ("--max_steps", 3, *balanced)),
    ):
        command = ["train", "--out", out, "--data", name, *settings]
        assert run(*command, "--epochs", 2, *stops) == 0
    write_table(table, [*rows[1:], (rows[0][0], f"n0{rows[0][1] == 'n00':d}", *rows[0][2:])])
    again = ["train", "--out", runs["csv"], "--resume", "true", "--no-progress"]
    again += ["--max_steps", 1000]
    assert "other labels" in refused(capsys, *again)
    write_table(table, rows)
    assert run(*again) == 0
    ours, theirs = (safetensors.torch.load_file(out / "model.safetensors") for out in runs.values())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert run("eval", runs["csv"], "--no-progress", "--json", tmp_path / "csv.json") == 0
    assert json.loads((tmp_path / "csv.json").read_text())["images"] == (2 if whole else 4)
    assert run("data", "check", f"csv:{table}") == 0
