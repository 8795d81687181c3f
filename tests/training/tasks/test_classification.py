"""Classification: its loss and its metrics."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kat.data import AugmentConfig
from kat.training import LossConfig, TrainConfig
from kat.training.tasks.classification.task import Classification, ClassificationMetrics
from tests.training.small import RECORD, batches


def _task(class_weights=None, **augment):
    config = TrainConfig(augment=AugmentConfig(**augment), loss=LossConfig(class_weights))
    return Classification(config, RECORD)


def test_every_image_counts_once_in_the_mean_loss():
    labels = batches(1)[0].labels
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    metrics = ClassificationMetrics(10)
    for cut in (slice(7), slice(7, 8)):
        loss = metrics.update(logits[cut], labels[cut])
        torch.testing.assert_close(loss, functional.cross_entropy(logits[cut], labels[cut]))
    found = metrics.compute()
    torch.testing.assert_close(found["loss"], functional.cross_entropy(logits, labels))
    for k in (1, 5):
        hits = (logits.topk(k).indices == labels[:, None]).any(1)
        torch.testing.assert_close(found[f"top{k}"], 100 * hits.float().mean())
    metrics.reset()
    metrics.update(functional.one_hot(labels, 10).float(), labels)
    assert metrics.compute()["top1"] == 100


def test_label_smoothing():
    labels = batches(1)[0].labels
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    smooth = 0.8 * functional.one_hot(labels, 10) + 0.02
    expected = -(smooth * torch.log_softmax(logits, -1)).sum(-1).mean()
    torch.testing.assert_close(_task(label_smoothing=0.2).loss(logits, labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_class_weights_are_pytorchs_on_indices(smoothing, dtype):
    labels, weights = batches(1)[0].labels, torch.arange(1.0, 11.0)
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    loss = _task(weights.tolist(), label_smoothing=smoothing).loss(logits, labels)
    expected = functional.cross_entropy(
        logits.double(), labels, weights.double(), label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    if not smoothing:
        nll = -logits.double().log_softmax(-1)[range(8), labels]
        by_hand = (weights[labels] * nll).sum() / weights[labels].sum()
        torch.testing.assert_close(expected, by_hand)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_class_weights_on_mixed_labels(dtype):
    weights = torch.arange(1.0, 11.0)
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    task = _task(weights.tolist(), mixup=0.8, label_smoothing=0.1)
    images, labels, *_ = batches(1)[0]
    for soft in (task.mixed(images, labels)[1], functional.one_hot(labels, 10).float()):
        terms = weights * soft
        expected = (terms * -logits.log_softmax(-1)).sum() / terms.sum()
        torch.testing.assert_close(task.loss(logits, soft), expected.to(dtype))
    unmixed = functional.cross_entropy(logits, labels, weights.to(dtype))
    torch.testing.assert_close(task.loss(logits, soft), unmixed)
    plain = _task(mixup=0.8).loss(logits, soft)
    torch.testing.assert_close(_task([3.0] * 10, mixup=0.8).loss(logits, soft), plain)


def test_mixing_takes_pairs_of_images_and_smooths_their_labels():
    images, labels, *_ = batches(1)[0]
    task = _task(mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    mixed, soft = task.mixed(images[:7], labels[:7])
    assert (len(mixed), soft.shape) == (7, (7, 10))
    torch.testing.assert_close(soft.sum(1), torch.ones(7))
    assert soft.min() > 0.0099  # 0.1 over 10 classes
    assert task.loss(torch.randn(7, 10), soft).isfinite()
    assert torch.equal(mixed[6], images[6])  # it has no partner
    assert soft[6, labels[6]].item() == pytest.approx(0.91)
    one, its_label = task.mixed(images[:1], labels[:1])  # the others cannot be read
    assert torch.equal(one, images[:1])
    assert its_label[0, labels[0]].item() == pytest.approx(0.91)
    alone = _task()
    assert alone.mixed(images, labels) == (images, labels)
