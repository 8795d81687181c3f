"""Detection: its training, with masks and without, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from kat.data import DataConfig
from kat.errors import InputError
from kat.models import load_model
from kat.training import TrainConfig, evaluate, train
from kat.training.config import DetectionAugmentConfig, ModelConfig, OptimConfig
from tests.equality import assert_equal

pytestmark = pytest.mark.slow

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "global_blocks": [0], "channels": 32}


def settings(items, out, args=SMALL, model="kat_det_micro", boxes=False, **more):
    return TrainConfig(
        out=str(out),
        epochs=1,
        progress=False,
        model=ModelConfig(name=model, args=args),
        data=DataConfig(name=f"coco:{items}", image_size=64, batch_size=4, boxes_only=boxes),
        detection=DetectionAugmentConfig(scale=(0.8, 1.2)),
        **more,
    )


def test_a_run_trains_keeps_and_evaluates(items, tmp_path):
    summary = train(settings(items, tmp_path / "run", optim=OptimConfig(ema_decay=0.5)))
    assert summary.task == "detection"
    assert set(summary.metrics) == {"box_ap", "mask_ap", "box_ap50", "mask_ap50"}
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert history[0].split(",")[:3] == ["epoch", "train_loss", "box_ap"]
    assert "raw_mask_ap" in history[0]
    model, record = load_model(tmp_path / "run")
    found = evaluate(model, record, DataConfig(name=f"coco:{items}", batch_size=4))
    assert found.images == 6
    assert found.metrics["box_ap"] == pytest.approx(summary.metrics["box_ap"], abs=1e-4)


def without_masks(items, out):
    """A copy of a set, without the masks of its annotations."""
    shutil.copytree(items, out)
    for path in (out / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            row["segmentation"] = []
        path.write_text(json.dumps(content))
    return out


def test_data_without_masks_trains_and_evaluates_boxes_alone(items, tmp_path, capsys):
    boxes = without_masks(items, tmp_path / "boxes")
    args = {**SMALL, "rcnn": {"box_score_thresh": 0.0}}
    summary = train(settings(boxes, tmp_path / "run", args))
    assert set(summary.metrics) == {"box_ap", "box_ap50"}
    assert "mask" not in (tmp_path / "run" / "history.csv").read_text()
    model, record = load_model(tmp_path / "run")
    assert not [name for name in model.state_dict() if "mask" in name]
    assert record.args["masks"] is False
    found = evaluate(model, record, DataConfig(name=f"coco:{boxes}", batch_size=4))
    assert found.metrics["box_ap"] == pytest.approx(summary.metrics["box_ap"], abs=1e-4)
    assert set(found.documents) == {"results_bbox"}
    # Masks of the data do not matter to a model of boxes; by the setting they do to none.
    again = evaluate(model, record, DataConfig(name=f"coco:{items}", batch_size=4))
    assert again.metrics == pytest.approx(found.metrics, nan_ok=True)
    config = settings(items, tmp_path / "chosen", args, boxes=True)
    assert train(config).metrics == pytest.approx(summary.metrics)


def test_masks_of_the_model_follow_the_data(items, tmp_path):
    boxes = without_masks(items, tmp_path / "boxes")
    name = "instances_training.json"
    shutil.copy(items / "annotations" / name, boxes / "annotations" / name)
    with pytest.raises(InputError, match=r"data\.boxes_only"):
        train(settings(boxes, tmp_path / "none"))


def test_stopped_and_resumed_it_ends_the_same(items, tmp_path):
    optim = OptimConfig(ema_decay=0.5)
    whole = train(settings(items, tmp_path / "whole", optim=optim))
    train(settings(items, tmp_path / "parts", optim=optim, max_steps=1))
    resumed = train(settings(items, tmp_path / "parts", optim=optim, resume=True))
    first, second = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["raw_state_dict"]
        for name in ("whole", "parts")
    )
    assert resumed.metrics == pytest.approx(whole.metrics, nan_ok=True)
    assert_equal(first, second)
