"""One pass over the images of a split, one image at a time at its original size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kat.data import DataConfig, DeviceTransform, ImageDataset
from kat.errors import InputError
from kat.training.evaluation.class_match import match_classes
from kat.training.evaluation.evaluation import EvalConfig, Subject, batches_of, device_of
from kat.training.optim.precision import Precision

_LOADED = 8
"""The maximum number of images loaded at once, since they are not resized."""


class ImagePass:
    """Iterates over the images of a split for a detector or a segmentation model.

    Args:
        subject: the model, on the device of the evaluation, and its record.
        images: the split, with its transform set.
        data: settings of data loading.
        config: settings of the evaluation.

    Raises:
        InputError: the classes of the data are not those of the model.
    """

    def __init__(
        self, subject: Subject, images: ImageDataset, data: DataConfig, config: EvalConfig
    ) -> None:
        record = subject.record
        columns, _, self.notes = match_classes(record.classes, images.classes)
        if len(columns) < len(record.classes):
            raise InputError(
                f"{subject.source} has {len(record.classes)} classes and {data.name} has"
                f" {len(columns)}"
            )
        self.notes += [images.note] if images.note else []
        self.device = device_of(subject.model, config)
        self.model = subject.model.eval()
        self.columns = torch.tensor(columns)
        """(K,): for each class of the data, its index among the K classes of the model."""
        self.counted = 0
        self.skipped = dict(images.ignored)
        self._images = images if config.limit is None else images.evenly_spaced(config.limit)
        self._data = replace(data, batch_size=min(data.batch_size, _LOADED))
        self._progress = config.progress
        self._prepare = DeviceTransform(record.mean, record.std)
        self._precision = Precision(config.precision, self.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Yields each normalized image (C, H, W), on the device, with its target."""
        for batch in batches_of(self._images, self._data, self._progress):
            self.skipped |= dict(batch.unreadable)
            for image, target in zip(batch.images, batch.labels, strict=True):
                self.counted += 1
                yield self._prepare(image[None].to(self.device))[0], target
        if not self.counted:
            raise InputError("the validation split has no image that can be read")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which to run the forward pass."""
        return self._precision.autocast()
