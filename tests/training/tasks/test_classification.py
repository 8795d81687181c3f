"""Classification: its loss and its metrics."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kat.data import AugmentConfig
from kat.training import TrainConfig
from kat.training.tasks.classification.task import Classification, ClassificationMetrics
from tests.training.small import RECORD, batches


def _task(**augment):
    return Classification(TrainConfig(augment=AugmentConfig(**augment)), RECORD)


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
