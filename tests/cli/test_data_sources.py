"""Training and evaluation on each kind of data, as a user calls them."""

from __future__ import annotations

import json

import pytest
import safetensors.torch

from tests.cli.commands import refused, run
from tests.data.sources.test_table import rows_of, unsplit, write_table
from tests.images import picture, write_folder, write_rows, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


def _tar(root):
    images = [picture(index) if index != 2 else b"torn" for index in range(4)]
    for split in ("train", "val"):
        write_tar(root / f"{split}.tar", [(f"n{i % 2}/{i}.jpg", c) for i, c in enumerate(images)])
    return [f"tar:{root}"], "train.tar/n0/2.jpg"


def _shards(root):
    files = []
    for index in range(4):
        files.append((f"{index}.jpg", picture(index) if index != 2 else b"torn"))
        files.append((f"{index}.json", json.dumps({"kind": index % 2}).encode()))
    for split in ("train", "val"):
        write_tar(root / f"{split}-0.tar", files)
    return [f"wds:{root}", "--data.label_key", "kind"], "train-0.tar/2.jpg"


def _rows(root):
    pytest.importorskip("datasets", reason="datasets is not installed")
    images = [picture(index) if index != 2 else b"torn" for index in range(4)]
    write_rows(root / "rows", {"train": images, "validation": images})
    return [f"hf:{root / 'rows'}", "--data.root", root / "cache"], "row 2 of "


@pytest.mark.parametrize("source", [_tar, _shards, _rows])
def test_a_run_and_its_evaluation(tmp_path, capsys, source):
    name, damaged = source(tmp_path / "data")
    out = tmp_path / "run"
    options = ["--data.image_size", "16", "--data.batch_size", "2", "--accelerator", "cpu"]
    options += ["--epochs", "1", "--model.name", "vit_micro_patch8_64", "--no-progress"]
    assert run("train", "--out", out, "--data.name", *name, *options) == 0
    assert f"{damaged}" in capsys.readouterr().out
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
    found = []
    for kind, out in runs.items():
        assert run("eval", out, "--no-progress", "--json", tmp_path / f"{kind}.json") == 0
        content = json.loads((tmp_path / f"{kind}.json").read_text())
        found.append((content["images"], content["top1"], content["loss"]))
    assert found[0] == found[1]
    assert found[0][0] == (2 if whole else 4)
    assert run("data", "check", f"csv:{table}") == 0
    assert run("predict", photos / rows[0][0], "--checkpoint", runs["csv"]) == 0
    assert "n00" in capsys.readouterr().out
