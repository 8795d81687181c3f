"""The evaluation of a stored model on a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

from kat.data import (
    DataConfig,
    ImageSet,
    ImageStream,
    check_data,
    eval_transform,
    make_loader,
    open_split,
)
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.training.classification import Classifier
from kat.training.config import TrainConfig
from kat.training.lightning_setup import make_trainer, quiet


def evaluate(
    path: Path,
    data: DataConfig,
    *,
    progress: bool = True,
    load: Callable[[Path], tuple[nn.Module, ModelRecord]] = load_model,
) -> dict[str, float]:
    """Top-1, top-5 (per cent) and loss of a stored model on the validation split of a data set.

    Runs on one device, and counts every image once. The model's own preprocessing is used; of
    ``data`` only what says where the images are. ``load`` opens what is stored at ``path``.

    Raises:
        InputError: no model at path, or classes that are not those of the data.
    """
    check_data(data)
    model, record = load(path)
    images = open_split(data, "val")
    _check_fit(record, images, data.name)
    images.transform = eval_transform(record)
    classifier = Classifier(model, record, TrainConfig(data=data))
    classifier.skip(images.ignored, "it is not named as an image")
    with quiet():
        trainer = make_trainer(
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar()] if progress else [],
        )
        loader = make_loader(images, data, training=False)
        (metrics,) = trainer.validate(classifier, loader, verbose=False)
    return {
        "top1": metrics["val/top1"],
        "top5": metrics["val/top5"],
        "loss": metrics["val/loss"],
        "images": len(images) - len(classifier.skipped - set(images.ignored)),
        "skipped": len(classifier.skipped),
    }


def _check_fit(record: ModelRecord, images: ImageSet | ImageStream, name: str) -> None:
    """Classes in another order give answers near chance, without any other sign of it."""
    ours, theirs = record.classes, images.classes
    if len(ours) != len(theirs):
        raise InputError(f"the model knows {len(ours)} classes, but {name!r} has {len(theirs)}")
    if ours == theirs:
        return
    numbers = [str(index) for index in range(len(ours))]
    if numbers in (ours, theirs) and sorted(ours) != sorted(theirs):
        sys.stdout.write("note: one side has numbers for class names, so they were not compared\n")
        return
    index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise InputError(
        f"class {index} is {ours[index]!r} to the model and {theirs[index]!r} in the data; the"
        " classes must have the names and the order that the model was trained with"
    )
