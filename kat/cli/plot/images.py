"""The validation images over which a model is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from kat.cli.eval import data_of_run
from kat.data import (
    Batch,
    DataConfig,
    DevicePreparation,
    ImageSet,
    ImageStream,
    make_loader,
    open_split,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training import TrainConfig
from kat.training.tasks.registry import TASKS, check_task

_BATCH = 64


@dataclass(frozen=True)
class ValidationImages:
    """So many images of a validation split, as a model takes them but for normalisation.

    Args:
        images: evenly spread over the split; of a stream the first ones are taken.
        data: how they are loaded.
        count: how many, at most.
    """

    images: ImageSet | ImageStream
    data: DataConfig
    count: int

    def batches(self) -> Iterator[Batch]:
        """Those that can be read.

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


def validation_images(
    checkpoint: Path, model: nn.Module, record: ModelRecord, count: int, name: str | None = None
) -> ValidationImages:
    """The images of a run's data, or of other data for the same task.

    Args:
        checkpoint: of a run.
        model: its model.
        record: of the model.
        count: how many.
        name: of the data set, in place of the run's own.

    Raises:
        InputError: the data set is not named, or is not there, or is not for this model.
    """
    settings = data_of_run(checkpoint, named=name is not None)
    settings |= {} if name is None else {"name": name}
    if "name" not in settings:
        raise InputError(f"{checkpoint} is not a run's, so say which images it is to look at")
    data = replace(DataConfig(**settings), batch_size=min(_BATCH, count), num_workers=0)
    images = open_split(data, "val")
    check_task(model, images, (str(checkpoint), data.name))
    if images.channels != record.input_size[0]:
        raise InputError(
            f"the model takes {record.input_size[0]} channels, but the images of {data.name!r}"
            f" have {images.channels}"
        )
    if isinstance(images, ImageSet):
        images = images.spread(count)
    _, images.transform = TASKS[images.task].transforms(record, TrainConfig())
    return ValidationImages(images, data, count)


def prepared(batch: Batch, record: ModelRecord) -> Iterator[Tensor]:
    """The images of a batch as inputs (B, C, H, W) of the model, one by one if they differ."""
    prepare = DevicePreparation(record.mean, record.std)
    whole = isinstance(batch.images, Tensor)
    return map(prepare, [batch.images] if whole else [image[None] for image in batch.images])
