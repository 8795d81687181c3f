"""Options of training that work for detectors and segmentation models as for classifiers."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from examples.items import make_items
from kat.data import AugmentConfig, DataConfig
from kat.data.dense import SegmentationAugmentConfig
from kat.errors import InputError, TrainingDiverged
from kat.models import build_model, save_model
from kat.models.dense.upernet import UperHead
from kat.training import TrainConfig, train
from kat.training.config import ModelConfig, OptimConfig
from kat.training.engine import build
from kat.training.tasks.detection.metrics import DetectionMetrics
from tests.marks import most_at_night
from tests.records import RECORD
from tests.training import killed_runs

pytestmark = pytest.mark.slow

TINY = {"depth": 4, "embed_dim": 32, "num_heads": 2, "global_blocks": [0], "channels": 16}
SMALL = {
    "coco": ("kat_det_micro", TINY),
    "ade20k": ("kat_upernet_micro", {**TINY, "auxiliary": 8, "norm": "layer"}),
}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "items"
    make_items(out, source="digits", images=4, val_images=3, size=64)
    return out


def settings(kind, items, out, model=None, data=None, **more):
    name, args = SMALL[kind]
    return TrainConfig(
        out=str(out),
        epochs=1,
        progress=False,
        model=ModelConfig(name=name, args=args, **(model or {})),
        data=DataConfig(name=f"{kind}:{items}", image_size=64, batch_size=2, **(data or {})),
        **more,
    )


@pytest.mark.parametrize("kind", SMALL)
def test_reduced_precision_layer_decay_and_checkpointing(kind, items, tmp_path, monkeypatch):
    """The products are in bfloat16, every block is computed again, and layers learn by depth."""
    computed, dtypes = [], set()

    def watched(*args, **options):
        model = build_model(*args, **options)
        for index, block in enumerate(model.backbone.body.vit.blocks):
            block.attn.qkv.register_forward_hook(partial(noted, index))
        return model

    def noted(index, layer, args, y):
        computed.append(index)
        dtypes.add(y.dtype)

    monkeypatch.setattr(build, "build_model", watched)
    config = settings(
        kind,
        items,
        tmp_path / "run",
        model={"grad_checkpointing": True, "channels_last": True, "drop_path": 0.1},
        precision="bf16-mixed",
        optim=OptimConfig(
            layer_decay=0.8, schedule="poly", accumulate_grad_batches=2, clip_grad=1.0
        ),
    )
    summary = train(config)
    assert dtypes == {torch.bfloat16}
    training = [*range(4), *reversed(range(4))] * 2
    assert computed[: len(training)] == training
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    scales = {group["lr_scale"] for group in state["optimizer_state"]["param_groups"]}
    assert sorted(scales) == pytest.approx([0.8**power for power in range(5, -1, -1)])
    assert all(value.dtype == torch.float32 for value in state["state_dict"].values())
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["train_loss"]) < 20
    assert set(summary.metrics) <= set(row)


SETTINGS = {
    "augment.mixup=0.8": {"augment": AugmentConfig(mixup=0.8)},
    "data.val_split=val": {"data": {"val_split": "val"}},
    "data.holdout=0.2": {"data": {"holdout": 0.2}},
    "segmentation.hflip=0.0": {"segmentation": SegmentationAugmentConfig(hflip=0.0)},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_other_tasks_are_refused(setting, items, tmp_path):
    config = settings("coco", items, tmp_path / "run", **SETTINGS[setting])
    with pytest.raises(InputError, match=f"{re.escape(setting)} has no"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_run_stops_where_its_validation_is_not_finite(items, tmp_path, monkeypatch):
    called = UperHead.forward
    monkeypatch.setattr(
        UperHead,
        "forward",
        lambda head, maps: called(head, maps) * (1 if head.training else torch.nan),
    )
    with pytest.raises(TrainingDiverged, match="the validation loss is not finite"):
        train(settings("ade20k", items, tmp_path / "run"))


def test_an_epoch_whose_metric_is_nan_is_the_lowest(items, tmp_path, monkeypatch):
    """AP of no object is NaN: a later epoch with one is the best; else JSON says null."""
    given = iter([torch.nan, 3.0, torch.nan])
    compute = DetectionMetrics.compute

    def computed(metrics):
        return {**compute(metrics), "box_ap": torch.tensor(next(given))}

    monkeypatch.setattr(DetectionMetrics, "compute", computed)
    config = settings("coco", items, tmp_path / "run")
    assert train(replace(config, epochs=2)).metrics["box_ap"] == 3
    train(replace(config, out=str(tmp_path / "never")))
    written = (tmp_path / "never" / "summary.json").read_text()
    assert json.loads(written, parse_constant=pytest.fail)["box_ap"] is None


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_run_starts_from_a_classifier(kind, pool, items, tmp_path, capsys):
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2, "patch_size": 8, "global_pool": pool}
    size, half = (3, 32, 32), (0.5,) * 3
    record = replace(
        RECORD, architecture="kat_micro", args=args, input_size=size, mean=half, std=half
    )
    torch.manual_seed(1)
    classifier = build_model(record)
    save_model(classifier, record, tmp_path / "classifier")
    model = {"init_from": str(tmp_path / "classifier"), "freeze": "backbone"}
    train(settings(kind, items, tmp_path / "run", model=model))
    assert "carried" in capsys.readouterr().out
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    name = "blocks.2.mlp.fc1.weight"
    carried = state[f"backbone.body.vit.{name}"]
    assert torch.equal(carried, classifier.state_dict()[name])


@pytest.mark.parametrize("kind", most_at_night(SMALL, ["coco"]))
def test_two_processes_validate_as_one_does(kind, items, tmp_path):
    """With steps too small to matter: of three images one has two, the metrics are of all."""
    name, args = SMALL[kind]
    if kind == "coco":
        args = {**args, "rcnn": {"box_score_thresh": 0.0}}
    rows = []
    for devices, batch in ((1, 2), (2, 1)):
        out = tmp_path / str(devices)
        command = (
            "train", "--config", "none", "--model.name", name, "--model.args",
            json.dumps(args), "--data.name", f"{kind}:{items}", "--data.image_size", "64",
            "--data.batch_size", str(batch), "--epochs", "1", "--limit_train_batches", "1",
            "--optim.lr", "1e-12", "--optim.warmup_lr", "1e-12", "--optim.min_lr", "1e-12",
            "--accelerator", "cpu", "--devices", str(devices), "--out", str(out),
        )  # fmt: skip
        code, _ = killed_runs.train(command, tmp_path / "log", ranks=devices)
        assert code == 0, (tmp_path / "log").read_text()
        with (out / "history.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        rows.append({name: float(value) for name, value in row.items() if name != "train_loss"})
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert rows[0]["box_ap" if kind == "coco" else "miou"] > 0
