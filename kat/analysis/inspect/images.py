"""The validation images that a model is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from kat.data import (
    Batch,
    DataConfig,
    DeviceTransform,
    ImageDataset,
    ImageStream,
    make_loader,
    open_split,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training import TrainConfig
from kat.training.evaluation.run_data import data_of_run
from kat.training.tasks.registry import TASKS, check_task

_BATCH = 64


@dataclass(frozen=True)
class ValidationImages:
    """Some images of a validation split, transformed for a model but not normalized.

    Args:
        images: evenly spread over the split; the first ones of a stream.
        data: how they are loaded.
        count: the number of images, at most.
    """

    images: ImageDataset | ImageStream
    data: DataConfig
    count: int

    def batches(self) -> Iterator[Batch]:
        """Loads the images that can be read.

        Raises:
            InputError: none can.
        """
        left = self.count
        for batch in make_loader(self.images, self.data, training=False):
            if len(batch.labels) > 0:
                yield batch._replace(images=batch.images[:left], labels=batch.labels[:left])
                left -= len(batch.labels)
            if left <= 0:
                return
        if left == self.count:
            raise InputError(
                f"none of the {self.count} images of {self.data.name} that were tried can be read"
            )


def open_images(
    data: DataConfig, model: nn.Module, record: ModelRecord, count: int, model_name: str
) -> ValidationImages:
    """Opens a validation split for a model.

    Args:
        data: names the dataset.
        model: which is to see the images.
        record: the record of the model.
        count: the number of images.
        model_name: names the model in errors.

    Raises:
        InputError: the dataset cannot be opened, or is for other models.
    """
    data = replace(data, batch_size=min(_BATCH, count), num_workers=0)
    images = open_split(data, "val")
    check_task(model, images, (model_name, data.name))
    if isinstance(images, ImageDataset):
        images = images.evenly_spaced(count)
    _, images.transform = TASKS[images.task].transforms(record, TrainConfig())
    return ValidationImages(images, data, count)


def images_of_run(
    checkpoint: Path, model: nn.Module, record: ModelRecord, count: int, name: str | None = None
) -> ValidationImages:
    """Opens the validation split of a run, or of another dataset for the same task.

    Args:
        checkpoint: a run directory, or a file in one.
        model, record, count: as in :func:`open_images`.
        name: the name of a dataset, in place of the run's own.

    Raises:
        InputError: there is neither a run nor a name, or as :func:`open_images`.
    """
    named = {} if name is None else {"name": name}
    settings = data_of_run(checkpoint, named) | named
    if "name" not in settings:
        raise InputError(f"{checkpoint} belongs to no run: name a dataset to take images of")
    return open_images(DataConfig(**settings), model, record, count, str(checkpoint))


def normalized(batches: Iterable[Batch], record: ModelRecord) -> Iterator[Tensor]:
    """The images of batches as inputs (B, C, H, W) of the model, one by one where sizes differ."""
    prepare = DeviceTransform(record.mean, record.std)
    for batch in batches:
        if isinstance(batch.images, Tensor):
            yield prepare(batch.images)
        else:
            yield from (prepare(image[None]) for image in batch.images)
