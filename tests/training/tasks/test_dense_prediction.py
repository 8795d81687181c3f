"""Predictions for single images equal the evaluation's, and an empty result draws no mask."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from examples.items import make_items
from kat.data import DataConfig, open_split
from kat.data.dense import IGNORE, open_segmentation
from kat.errors import InputError
from kat.models import build_model
from kat.models.dense import SlidingWindowConfig
from kat.training import evaluate
from kat.training.tasks.detection.task import find_objects
from kat.training.tasks.evaluation import Subject
from kat.training.tasks.segmentation.task import find_classes
from tests.records import RECORD

pytestmark = pytest.mark.slow

ARGS = {"depth": 4, "global_blocks": [0], "embed_dim": 32, "num_heads": 2, "channels": 16}
HOW = (
    SlidingWindowConfig(),
    SlidingWindowConfig(window=32, stride=24, scales=(0.8, 1.3), flip=True),
)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "items"
    make_items(out, source="digits", images=2, val_images=3, size=64)
    return out


def model_of(name, classes, side, **args):
    size, colors = (3, side, side), {"mean": (0.5,) * 3, "std": (0.3,) * 3}
    args = {**ARGS, **args}
    record = replace(
        RECORD, architecture=name, args=args, classes=classes, input_size=size, **colors
    )
    torch.manual_seed(0)
    return build_model(record).eval(), record


@pytest.mark.parametrize("how", HOW)
def test_predicted_masks_are_those_that_are_evaluated(items, how):
    images = open_segmentation("ade20k", items, "val")
    model, record = model_of("kat_upernet_micro", images.classes, 48)
    with torch.no_grad():
        model.head.classify.weight.mul_(300)  # logits so large that some probabilities are 0
    found = evaluate(model, record, DataConfig(name=f"ade20k:{items}"), options=how)
    counts = np.zeros((len(images.classes),) * 2, dtype=int)
    for index in range(len(images)):
        image, mask = images[index]
        said = find_classes(Subject(model, record), image, how)
        known = mask != IGNORE
        np.add.at(counts, (mask[known].numpy(), said[known].numpy()), 1)
    assert found.confusion.tolist() == counts.tolist()
    assert len(np.flatnonzero(counts.sum(0))) > 1  # it says different things
    assert np.isfinite(found.metrics["loss"])


def test_only_objects_that_count_are_drawn():
    model, record = model_of("kat_det_micro", ["a", "b", "c"], 64, rcnn={"box_score_thresh": 0.0})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    drawn = []
    model.roi_heads.register_forward_hook(lambda *args: drawn.append(len(args[2][0][0]["masks"])))
    subject = Subject(model, record)
    everything = find_objects(subject, image, 0.0)
    threshold = float(everything["scores"][9])  # itself counts
    some = find_objects(subject, image, threshold)
    kept = everything["scores"] >= threshold
    assert drawn == [len(kept), int(kept.sum())]
    assert 10 <= drawn[1] < drawn[0]
    assert all(torch.equal(some[name], everything[name][kept]) for name in some)
    assert model.roi_heads.score_thresh == 0.0


def test_a_threshold_below_the_model_s_own_holds():
    model, record = model_of("kat_det_micro", ["a", "b", "c"], 64, rcnn={"box_score_thresh": 0.9})
    subject, image = Subject(model, record), Image.new("RGB", (64, 64))
    assert len(find_objects(subject, image, 0.9)["scores"]) == 0
    scores = find_objects(subject, image, 0.1)["scores"]
    assert len(scores) > 0
    assert ((scores >= 0.1) & (scores < 0.9)).all()
    assert model.score_threshold == 0.9


@pytest.mark.parametrize(
    ("name", "data", "layer"),
    [
        ("kat_upernet_micro", "ade20k", "blocks.1.mlp"),
        ("kat_det_micro", "coco", "blocks.1.mlp"),
        ("kat_det_micro", "coco", "roi_heads.box_predictor"),
    ],
)
def test_a_model_that_is_not_finite_finds_nothing_silently(items, name, data, layer):
    images = open_split(DataConfig(f"{data}:{items}"), "val")
    model, record = model_of(name, images.classes, 64)
    broken = next(m for n, m in model.named_modules() if n.endswith(layer))
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    find = find_objects if data == "coco" else partial(find_classes, how=SlidingWindowConfig())
    for call in (
        lambda: evaluate(model, record, DataConfig(f"{data}:{items}"), source="bad.ckpt"),
        lambda: find(Subject(model, record, "bad.ckpt"), Image.new("RGB", (64, 64))),
    ):
        with pytest.raises(InputError, match=r"bad\.ckpt are not finite") as raised:
            call()
        assert f"{layer.rpartition('.')[2]}" in str(raised.value)
    assert not any(module._forward_hooks for module in model.modules())
