"""What training does with every model, for detectors and segmentation models too."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import torch

from kat.analysis import StabilityMonitor
from kat.data import DataConfig
from kat.data.dense.synthetic import make_items
from kat.models import ModelRecord, build_model, save_model
from kat.training import MonitorConfig, TrainConfig, train
from kat.training.config import ModelConfig, OptimConfig

SMALL = {
    "coco": ("kat_det_micro", {"global_blocks": [0]}),
    "ade20k": ("kat_upernet_micro", {"auxiliary": 8}),
}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "items"
    make_items(out, source="digits", images=4, val_images=3, size=64)
    return out


def settings(kind, items, out, model=None, **more):
    name, args = SMALL[kind]
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2, "channels": 16, **args}
    return TrainConfig(
        out=str(out),
        epochs=1,
        progress=False,
        model=ModelConfig(name=name, args=args, **(model or {})),
        data=DataConfig(name=f"{kind}:{items}", image_size=64, batch_size=2),
        **more,
    )


@pytest.mark.parametrize("kind", SMALL)
def test_reduced_precision_layer_decay_and_checkpointing(kind, items, tmp_path):
    config = settings(
        kind,
        items,
        tmp_path / "run",
        model={"grad_checkpointing": True, "channels_last": True, "drop_path": 0.1},
        precision="bf16-mixed",
        optim=OptimConfig(layer_decay=0.8, schedule="poly", accumulate=2, clip_grad=1.0),
    )
    assert train(config).epochs == 1


def test_the_layers_are_recorded(items, tmp_path):
    config = settings("ade20k", items, tmp_path / "run", monitor=MonitorConfig(True, 1))
    train(config, StabilityMonitor(1))
    with (tmp_path / "run" / "stability.csv").open(newline="") as file:
        layers = {row["layer"] for row in csv.DictReader(file)}
    assert "backbone.body.vit.blocks.3.mlp.act2" in layers


def test_what_is_frozen_stays(items, tmp_path):
    config = settings("coco", items, tmp_path / "run", model={"freeze": "backbone"})
    train(config)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    names = {name for group in state["optimizer"]["groups"] for name in group}
    assert not any("backbone.body" in name for name in names)
    assert any("backbone.neck" in name for name in names)
    assert any("rpn" in name for name in names)


@pytest.mark.parametrize("kind", SMALL)
def test_a_classifier_s_weights_are_a_start(kind, items, tmp_path, capsys):
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
    record = ModelRecord(
        architecture="kat_micro",
        args=args,
        classes=["a", "b"],
        input_size=(3, 32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
    )
    torch.manual_seed(1)
    classifier = build_model(record)
    save_model(classifier, record, tmp_path / "classifier")
    model = {"init_from": str(tmp_path / "classifier"), "freeze": "backbone"}
    train(settings(kind, items, tmp_path / "run", model=model))
    assert "carried" in capsys.readouterr().out
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    name = "blocks.2.mlp.fc1.weight"
    carried = state[f"model.backbone.body.vit.{name}"]
    assert torch.equal(carried, classifier.state_dict()[name])


@pytest.mark.parametrize("kind", SMALL)
def test_two_processes_score_what_one_does(kind, items, tmp_path):
    """With steps too small to matter: of three images one has two, their scores are of all."""
    name, args = SMALL[kind]
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2, "channels": 16, **args}
    if kind == "coco":
        args["rcnn"] = {"box_score_thresh": 0.0}
    rows = []
    for devices, batch in ((1, 2), (2, 1)):
        out = tmp_path / str(devices)
        command = (
            sys.executable, "-m", "kat_command", "train", "--model.name", name, "--model.args",
            json.dumps(args), "--data.name", f"{kind}:{items}", "--data.image_size", "64",
            "--data.batch_size", str(batch), "--epochs", "1", "--limit_train_batches", "1",
            "--optim.lr", "1e-12", "--optim.warmup_lr", "1e-12", "--optim.min_lr", "1e-12",
            "--accelerator", "cpu", "--devices", str(devices), "--out", str(out),
        )  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with (out / "history.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        rows.append({name: float(value) for name, value in row.items() if name != "train_loss"})
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert rows[0]["box_ap" if kind == "coco" else "miou"] > 0
