"""Segmentation: its metrics against counts by hand, its loss, its training."""

from __future__ import annotations

import math
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from kat.data import DataConfig
from kat.data.dense import IGNORE, open_segmentation
from kat.models import load_model
from kat.training import TrainConfig, evaluate, train
from kat.training.config import ModelConfig, OptimConfig
from kat.training.tasks.segmentation.task import Segmentation, SegmentationMetrics, pixel_loss
from tests.records import RECORD

pytestmark = pytest.mark.slow

SMALL = {
    "depth": 4,
    "global_blocks": [3],
    "embed_dim": 32,
    "num_heads": 2,
    "channels": 16,
    "auxiliary": 8,
}


def settings(items, out, args=SMALL, batch_size=4, **more):
    return TrainConfig(
        out=str(out),
        epochs=1,
        progress=False,
        model=ModelConfig(name="kat_upernet_micro", args=args),
        data=DataConfig(name=f"ade20k:{items}", image_size=64, batch_size=batch_size),
        **more,
    )


def counted(masks, predictions, classes):
    """Pixels of each class taken for each, one by one."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for mask, prediction in zip(masks, predictions, strict=True):
        for true, said in zip(mask.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            if true != IGNORE:
                counts[true, said] += 1
    return counts


def test_the_predictions_for_one_image_are_held_at_a_time():
    alive = []

    def model(images):
        assert not any(held() is not None for held in alive)
        return functional.one_hot(images[:, 0].long(), 3).permute(0, 3, 1, 2) * 9.0

    def watched(prediction):
        alive.append(weakref.ref(prediction))
        return prediction

    masks = [torch.randint(0, 3, size) for size in ((4, 5), (4, 5), (6, 3))]
    task, metrics = Segmentation(TrainConfig(), RECORD), SegmentationMetrics(3)
    for images in (torch.stack(masks[:2])[:, None], [mask[None] for mask in masks[2:]]):
        predictions = task.predict(model, images)
        metrics.update(map(watched, predictions), [mask[0] for mask in images])
    assert len(alive) == 3
    assert float(metrics.compute()["miou"]) == 100


@pytest.mark.parametrize("strip", [None, 100])
def test_figures_are_those_of_a_confusion_matrix_by_hand(strip, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    classes, sizes = 5, [(7, 9), (8, 8), (3, 11)]
    masks, logits = [], []
    for size in sizes:
        mask = torch.randint(0, classes - 1, size, generator=generator)  # the last is never there
        mask[torch.rand(size, generator=generator) < 0.2] = IGNORE
        masks.append(mask.to(torch.uint8))
        prediction = torch.randn(classes, *size, generator=generator)
        prediction[3] = -20  # and one is never named
        logits.append(prediction)
    if strip:
        monkeypatch.setattr("kat.models.dense.sliding_window.STRIP_ELEMENTS", strip)
    metrics, predictions = SegmentationMetrics(classes), [each.softmax(0) for each in logits]
    metrics.update(predictions[:2], masks[:2])
    metrics.update(predictions[2:], masks[2:])
    given = {name: float(value) for name, value in metrics.compute().items()}
    counts = counted(masks, [prediction.argmax(0) for prediction in logits], classes)
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    assert given["miou"] == pytest.approx(100 * np.mean(right[union > 0] / union[union > 0]))
    assert given["pixel_accuracy"] == pytest.approx(100 * right.sum() / counts.sum())
    there = counts.sum(1)
    assert given["class_accuracy"] == pytest.approx(
        100 * np.mean(right[there > 0] / there[there > 0])
    )
    losses = [
        functional.cross_entropy(prediction[None], mask[None].long(), ignore_index=IGNORE)
        for prediction, mask in zip(logits, masks, strict=True)
    ]
    assert given["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert metrics.by_class().tolist() == pytest.approx((right / np.maximum(union, 1)).tolist())


def test_predictions_of_another_size_are_compared_at_the_masks():
    metrics = SegmentationMetrics(2)
    prediction = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # left 0, right 1
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.uint8)
    loss = metrics.update([prediction], [mask])
    assert float(metrics.compute()["miou"]) == 100
    assert float(loss) == pytest.approx(-math.log(0.75) / 2)  # sure at the edges, 3/4 within


def test_a_run_and_its_evaluation_say_which_classes_no_pixel_has(items, tmp_path, capsys):
    data = shutil.copytree(items, tmp_path / "items")
    for path in (data / "annotations" / "validation").iterdir():
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 1, 1, IGNORE).astype(np.uint8)).save(path)
    train(replace(settings(data, tmp_path / "run"), epochs=2))
    names = open_segmentation("ade20k", data, "val").classes[1:]
    note = f"note: validation has no pixel of classes {', '.join(map(repr, names[:3]))} and 7 more"
    assert capsys.readouterr().out.count(note) == 1
    found = evaluate(*load_model(tmp_path / "run"), DataConfig(name=f"ade20k:{data}"))
    assert found.notes == [note]


def test_the_loss_of_pixels_that_have_a_class():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.randint(0, 3, (2, 4, 4)).to(torch.uint8)
    mask[0, 0] = IGNORE
    expected = functional.cross_entropy(logits, mask.long(), ignore_index=IGNORE)
    torch.testing.assert_close(pixel_loss(logits, mask), expected)
    nothing = pixel_loss(logits, torch.full_like(mask, IGNORE))
    assert float(nothing.detach()) == 0
    nothing.backward()
    assert float(logits.grad.abs().max()) == 0


def test_an_image_without_labels_has_no_loss():
    masks = [torch.zeros(2, 2, dtype=torch.uint8), torch.full((2, 2), IGNORE, dtype=torch.uint8)]
    output = [torch.softmax(torch.randn(3, 2, 2), 0) for _ in masks]
    metrics = SegmentationMetrics(3)
    metrics.update(output, masks)
    expected = -output[0][0].log().mean()
    torch.testing.assert_close(metrics.compute()["loss"], expected)
    metrics.reset()
    metrics.update(output[1:], masks[1:])
    assert math.isnan(metrics.compute()["loss"])


def test_a_run_trains_keeps_evaluates_and_resumes(items, tmp_path):
    optim = OptimConfig(ema_decay=0.5)
    summary = train(settings(items, tmp_path / "run", optim=optim))
    assert summary.task == "segmentation"
    model, record = load_model(tmp_path / "run")
    data = DataConfig(name=f"ade20k:{items}", batch_size=4)
    found = evaluate(model, record, data)
    assert found.metrics["miou"] == pytest.approx(summary.metrics["miou"], rel=1e-6)
    images = open_segmentation("ade20k", items, "val")
    labelled = sum(int((images[index][1] != IGNORE).sum()) for index in range(len(images)))
    assert int(found.confusion.sum()) == labelled
    train(settings(items, tmp_path / "parts", optim=optim, max_steps=1))
    resumed = train(settings(items, tmp_path / "parts", optim=optim, resume=True))
    assert resumed.metrics == pytest.approx(summary.metrics)
