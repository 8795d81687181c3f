"""Predictions of a classifier for the images of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from kat.data import Batch, DataConfig, DeviceTransform, ImageDataset, ImageStream
from kat.data.naming import wrong_label
from kat.errors import InputError
from kat.training.callbacks.nonfinite import not_finite
from kat.training.evaluation.evaluation import EvalConfig, Subject, batches_of, device_of
from kat.training.evaluation.prediction import ClassPredictions
from kat.training.optim.precision import Precision

TOP = 5
"""The number of most likely classes that are kept for each image."""


@torch.inference_mode()
def predict_classes(
    subject: Subject,
    images: ImageDataset | ImageStream,
    columns: Sequence[int],
    data: DataConfig,
    config: EvalConfig,
) -> tuple[ClassPredictions, dict[str, str]]:
    """Runs a classifier over a split; every readable image counts once.

    Args:
        subject: the model, on the device of the evaluation, and its record.
        images: the split, with the transform of the model set.
        columns: for each class of the data, its index among the model's classes.
        data: settings of data loading.
        config: settings of the evaluation.

    Returns:
        The predictions, and the unreadable images with the reason for each.

    Raises:
        InputError: no image can be read, a label is out of range, or logits are not finite.
    """
    device = device_of(subject.model, config)
    model = subject.model.eval()
    prepare = DeviceTransform(subject.record.mean, subject.record.std)
    precision = Precision(config.precision, device)
    kept: list[tuple[np.ndarray, ...]] = []
    seen: list[str] = []
    unreadable: dict[str, str] = {}
    names = _readable_names(images, unreadable)
    for batch in _limited(batches_of(images, data, config.progress), config.limit):
        unreadable |= dict(batch.unreadable)
        seen += islice(names, len(batch.labels))
        if len(batch.labels) == 0:
            continue
        prepared = prepare(batch.images.to(device, non_blocking=True))
        with precision.autocast():
            logits = model(prepared).float()
            if not logits.isfinite().all():
                raise not_finite(subject.source, model, partial(model, prepared))
        kept.append(_keep(logits, batch.labels, columns, config.keep_logits))
    if not kept:
        raise InputError("the validation split has no image that can be read")
    return ClassPredictions(seen, *map(np.concatenate, zip(*kept, strict=True))), unreadable


def _keep(
    logits: Tensor, labels: Tensor, columns: Sequence[int], keep_logits: bool
) -> tuple[np.ndarray, ...]:
    """The fields of :class:`ClassPredictions` for a batch, except the names."""
    if list(columns) != list(range(logits.shape[1])):
        logits = logits[:, torch.tensor(columns, device=logits.device)]
    labels = labels.to(logits.device)
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise InputError(wrong_label("the data", int(wrong[0]), logits.shape[1]))
    log_probability = logits.log_softmax(-1)
    true = log_probability.gather(1, labels[:, None])[:, 0]
    top = logits.topk(min(TOP, logits.shape[1])).indices
    kept = (labels, top, log_probability.gather(1, top).exp(), true.exp(), -true)
    return tuple(tensor.cpu().numpy() for tensor in (*kept, *([logits] if keep_logits else [])))


def _readable_names(
    images: ImageDataset | ImageStream, unreadable: Mapping[str, str]
) -> Iterator[str]:
    """The names of the readable images in the order of evaluation.

    ``unreadable`` has those that are not, as far as the images were read. Images of a stream are
    numbered.
    """
    if isinstance(images, ImageDataset):
        names = map(images.name, range(len(images)))
        return (name for name in names if name not in unreadable)
    return (f"image {index} of the stream" for index in count())


def _limited(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    """The batches of the first ``limit`` images."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch._replace(images=batch.images[:left], labels=batch.labels[:left])
        left -= len(batch.labels)
        if left <= 0:
            return
