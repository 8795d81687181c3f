"""Training and evaluation on each kind of data, as a user calls them."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import run
from tests.images import picture, write_rows, write_tar

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
    metrics = tmp_path / "metrics.json"
    assert run("eval", out, "--no-progress", "--json", metrics) == 0
    printed = json.loads(metrics.read_text())
    assert (printed["images"], printed["skipped"]) == (3, 1)
