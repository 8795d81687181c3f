"""A dry run: what it finds out, compared with a run, and that nothing is left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import timm
import torch

from examples.items import make_items
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.training import measure_dry_run
from kat.training.record.checkpoint import bytes_of_directory
from kat.training.settings.recipes import recipe_names
from tests.cli.commands import refused, run
from tests.images import write_fashion_mnist, write_folder
from tests.marks import most_at_night

pytestmark = pytest.mark.slow

QUICK = ("train", "--config", "digits", "--optim.warmup_epochs", 0, "--data.batch_size", 32)
ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def _config(*arguments):
    return parse_training(TrainingParser(), [str(argument) for argument in arguments])[0]


def test_it_prints_a_table_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = run(*QUICK, "--out", "runs/new", "--dry-run", "--optim.ema_decay", 0.9, "--monitor")
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    for pattern in (
        r"parameters +202,490\n",
        r"training data +1,437 images\n",
        r"validation data +360 images\n",
        r"speed +\d+(\.\d+)? images/s, \S+ s per step, data wait \d+ % \(3 steps after 1 to warm",
        r"time +about .+ per epoch\n",
        r"memory +peak \S+ [MG]B, of which weights 810 kB, gradients 810 kB, optimizer 1.62 MB,"
        r" ema 810 kB\n",
        r"loss +\d\.\d{4} after 4 steps\n",
        r"FLOPs per image +7\.447 M, two for a multiply-add\n",
    ):
        assert re.search(pattern, printed), pattern


def test_sizes_are_those_of_the_files_that_a_run_writes(tmp_path):
    settings = ("--optim.ema_decay", 0.9, "--limit_train_batches", 4, "--epochs", 1)
    found = measure_dry_run(_config(*QUICK[1:], "--out", tmp_path / "run", *settings))
    assert run(*QUICK, "--out", tmp_path / "run", *settings) == 0
    written = (tmp_path / "run/last.ckpt").stat().st_size
    assert found.checkpoint < written < 1.1 * found.checkpoint
    weights = (tmp_path / "run/model.safetensors").stat().st_size
    assert found.size["weights"] < weights < 1.05 * found.size["weights"]
    kept = sum(path.stat().st_size for path in (tmp_path / "run").glob("*.ckpt"))
    assert kept < bytes_of_directory(found.size)


def test_time_is_that_of_the_steps_and_of_validation(tmp_path):
    config = _config(
        *QUICK[1:], "--out", tmp_path / "run", "--optim.accumulate_grad_batches", 2,
        "--limit_train_batches", 0.5, "--limit_val_batches", 3,
    )  # fmt: skip
    found = measure_dry_run(config)
    assert (found.work.batches, found.work.images) == (6, 192)
    training = 22 * found.work.seconds / 6  # half of 44
    assert training < found.epoch < training + 3
    assert found.peak > 50e6


DENSE = {
    "det": ("coco", "kat_det_micro"),
    "upernet": ("ade20k", "kat_upernet_micro"),
    "segmentation": ("ade20k", "kat_upernet_micro"),
}
"""Data and a small model of the recipes whose name has this in it."""


@pytest.mark.parametrize(
    "recipe",
    most_at_night(
        recipe_names(),
        [name for name in recipe_names() if not name.endswith(("small", "base"))],
    ),
)
def test_every_recipe_passes_a_dry_run(recipe, tmp_path, monkeypatch, capsys):
    """With models of the same interface that are small, on the format of data that it is for."""
    data = tmp_path / "data"
    data.mkdir()
    arguments = []
    if recipe == "finetune" or recipe.startswith("imagenet"):
        write_folder(data, classes=3, train=4, val=1)
        arguments = ["--data.name", f"folder:{data}", "--model.name", "kat_micro_patch8_64"]
        arguments += ["--data.num_workers", 0]
    if recipe.startswith("imagenet"):
        arguments += ["--data.image_size", 64, "--data.batch_size", 4]
        if recipe.endswith("from_vit"):
            vit = timm.create_model("vit_micro_patch8_64", num_classes=3)
            torch.save(vit.state_dict(), tmp_path / "vit.pth")
            arguments += ["--model.init_from", tmp_path / "vit.pth"]
    if recipe.startswith("fashion_mnist"):
        write_fashion_mnist(data, train=40, val=20)
        arguments = ["--data.name", f"fashion_mnist:{data}", "--data.batch_size", 8]
    task = next((task for task in DENSE if task in recipe), None)
    if task is not None:
        make_items(tmp_path / "items", source="digits", images=8, val_images=2, size=64)
        kind, name = DENSE[task]
        arguments = ["--data.name", f"{kind}:{tmp_path / 'items'}", "--data.image_size", 64]
        arguments += ["--data.num_workers", 0, "--data.batch_size", 2, "--model.name", name]
    code = run("train", "--config", recipe, "--out", tmp_path / "run", *arguments, "--dry-run")
    assert code == 0
    assert f"written to {tmp_path / 'run'}" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_what_would_stop_the_run_is_one_line(tmp_path, capsys, monkeypatch):
    common = (*QUICK, "--out", tmp_path / "a/b", "--dry-run")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
        line = refused(capsys, *common)
        run_line = refused(capsys, *QUICK, "--out", tmp_path / "c", "--epochs", 9)
    assert line == f"kat: the checkpoints need 10.53 MB, but {tmp_path} has 1 MB free\n"
    assert run_line == line.replace(str(tmp_path), str(tmp_path / "c"))  # before the first step
    line = refused(capsys, *common, "--optim.lr", 1e30, "--optim.clip_grad", 0)
    assert "is nan after" in line
    (tmp_path / "file").write_text("")
    line = refused(capsys, *QUICK, "--out", tmp_path / "file/run", "--dry-run")
    assert f"{tmp_path / 'file' / 'run'} cannot be" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_run_that_is_there_is_left_alone(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 1, "--limit_train_batches", 2) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "already holds a" in refused(capsys, *QUICK, "--out", out, "--dry-run")
    for how in ("--resume", "--overwrite"):
        assert run(*QUICK, "--out", out, "--dry-run", how, "true") == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert json.loads((out / "summary.json").read_text())["epochs"] == 1
