"""Fine-tuning as a user does it: one command, a folder of images, a model on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml

from kat.models import build_model, load_model, save_model
from kat.nn import rationals
from tests import records
from tests.cli.commands import refused, run
from tests.images import write_folder
from tests.processes import start

pytestmark = pytest.mark.slow

RECORD = replace(
    records.RECORD, classes=["cat", "dog"], mean=(0.4,), std=(0.3,), interpolation="bilinear",
    crop_pct=0.95, args={"depth": 2},
)  # fmt: skip
QUICK = ["--no-progress", "--data.num_workers", "0", "--limit_train_batches", "2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A grey KAT of two blocks for 8x8 images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("source")
    save_model(build_model(RECORD), RECORD, folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """CLASS/*.jpg of three classes with ten images each, and no validation split."""
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder, classes=3, train=10, val=1)
    for name in ("n00", "n01", "n02"):
        (folder / "train" / name).rename(folder / name)
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "val")
    return folder


def _command(images, source, out, *options):
    return [
        "train", "--config", "finetune", "--data.name", f"folder:{images}",
        "--init-from", source, "--out", out, *QUICK, *options,
    ]  # fmt: skip


def _weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_one_command_needs_no_other_setting(images, source, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*_command(images, source, out, "--epochs", 2)) == 0
    printed = capsys.readouterr().out
    assert "model.name=kat_micro_patch2_8, data.image_size=8, data.channels=1" in printed
    settings = (out / "run.yaml").read_text()
    resolved = yaml.safe_load(settings)
    assert (resolved["data"]["batch_size"], resolved["optim"]["warmup_epochs"]) == (8, 0.1)
    model, record = load_model(out)
    assert (record.input_size, record.mean, record.std) == ((1, 8, 8), (0.4,), (0.3,))
    assert (record.interpolation, record.crop_pct) == ("bilinear", 0.95)
    assert (len(model.blocks), record.classes) == (2, ["n00", "n01", "n02"])
    metrics, named = tmp_path / "metrics.json", ("--data.name", f"folder:{images}")
    summary = json.loads((out / "summary.json").read_text())
    assert run("eval", out, "--json", metrics, "--no-progress", *named) == 0
    answer = json.loads(metrics.read_text())
    assert answer["images"] == 3  # it was trained on the others
    assert answer["top1"] == pytest.approx(summary["top1"], abs=1e-4)
    # on resume, auto is what it was
    resume = ["--resume", "true", "--epochs", 3]
    assert run("train", "--config", "finetune", *named, "--out", out, *QUICK, *resume) == 0
    again = yaml.safe_load((out / "run.yaml").read_text())
    assert (again["model"]["args"]["depth"], again["data"]["mean"]) == (2, [0.4])
    assert again["optim"]["lr"] == resolved["optim"]["lr"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.release)])
def test_linear_probe_trains_the_head_alone(images, source, tmp_path, processes):
    out = tmp_path / "run"
    options = ["--epochs", 1, "--model.freeze", "backbone", "--optim.ema_decay", 0.9]
    command = _command(images, source, out, *options)
    if processes == 1:
        assert run(*command, "--monitor", "--monitor.every_n_steps", 1) == 0
    else:
        process = start(*command, "--accelerator", "cpu", "--devices", 2, "--strategy", "ddp")
        printed, said = process.communicate()
        assert process.returncode == 0, said
        assert printed.count("best top-1") == 1
    before, after = _weights(source), _weights(out)
    for name in after:
        if not name.startswith("head."):
            assert torch.equal(before[name], after[name]), name
    state = torch.load(out / "last.ckpt", weights_only=True)["optimizer_state"]["state"]
    assert len(state) == 2


@pytest.mark.parametrize(
    ("data", "recipe", "model", "task"),
    [
        ("folder", "finetune", "kat_micro", "classification"),
        ("coco", "finetune_detection", "kat_det_micro", "detection"),
        ("ade", "finetune_segmentation", "kat_upernet_micro", "segmentation"),
    ],
)
def test_the_bare_call_says_in_a_line_what_it_chooses(
    images, items, tmp_path, capsys, data, recipe, model, task
):
    """Without a model or a recipe; --config RECIPE without a model makes the same choice."""
    name = f"{data}:{images if data == 'folder' else items}"
    small = ("--data.batch_size", 2, "--device", "cpu", "--out", tmp_path / "run")
    bare = ("--data", name, *QUICK, *small)
    printed = []
    for options in ((), ("--config", recipe)):
        assert run("train", *options, *bare, "--dry-run") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "validation" not in line]
        printed.append(lines[: next(i for i, line in enumerate(lines) if line.startswith("model"))])
    assert printed[0] == printed[1]
    (chosen,) = printed[0]
    assert f"--config {recipe}, for {task}" in chosen
    assert f" model.name={model}, data.image_size=" in chosen
    if task != "classification":
        assert recipe in refused(capsys, "train", "--config", "finetune", *bare)


def test_functions_from_a_model_stay_fixed(tmp_path, capsys):
    out = tmp_path / "run"
    given = ("train", "--config", "digits", "--functions-from", "digits", "--out", out)
    assert run(*given, "--epochs", 1, "--limit_train_batches", 2, "--no-progress") == 0
    resume = ("train", "--resume", "true", "--out", out, "--epochs", 2, "--no-progress")
    assert "at the start" in refused(capsys, *resume, "--functions-from", "other")
    assert run(*resume) == 0
    learned, kept = (rationals(load_model(path)[0]) for path in ("digits", out))
    for name, act in kept.items():
        assert all(map(torch.equal, act.parameters(), learned[name].parameters()))
    given = (*given[:-1], tmp_path / "new")
    assert "exclude each other" in refused(capsys, *given, "--init-from", "digits")
