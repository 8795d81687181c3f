"""Settings and results of evaluating a model, shared by all tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from kat.data import Batch, DataConfig, DeviceTransform, ImageDataset, make_loader
from kat.errors import InputError, first_line
from kat.models import ModelRecord
from kat.notebook import picture_html, table_html
from kat.settings import Count, Side
from kat.text import counted
from kat.training.nonfinite import check_weights
from kat.training.optim.precision import Precision
from kat.training.tasks.match import match_classes

_LOADED = 8
"""The maximum number of images loaded at once, since they are not resized."""


@dataclass
class EvalConfig:
    """Settings of running a model over a dataset.

    Args:
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        precision: what the forward pass is computed in.
        limit: evaluate on no more than this many images, evenly spread over the split.
        image_size: side of the square that a classifier sees, in pixels, or of a segmentation model
            the shorter side of the image; None: as stored.
        keep_logits: keep every logit of a classifier, 4 bytes per image and class.
        progress: show a progress bar.

    Examples:
        >>> from kat.training import EvalConfig
        >>> EvalConfig(device="cpu", limit=100).precision
        '32-true'
    """

    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    limit: Count | None = None
    image_size: Side | None = None
    keep_logits: bool = False
    progress: bool = True


class Subject(NamedTuple):
    """The model to evaluate.

    Args:
        model: the model.
        record: record that is stored with the model.
        source: path of the model, or a name for it in error messages.
    """

    model: nn.Module
    record: ModelRecord
    source: Path | str = "the model"

    @property
    def device(self) -> torch.device:
        """The device on which the model takes its inputs; the CPU for an exported one."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def prepared(self, pixels: Tensor) -> Tensor:
        """Return a batch of one normalized image, on the device, from uint8 pixels (C, H, W)."""
        transform = DeviceTransform(self.record.mean, self.record.std)
        return transform(pixels[None].to(self.device))


class EvalJob(NamedTuple):
    """An evaluation of a model on a dataset.

    Args:
        subject: the model, on the device of the evaluation, and its record.
        images: a split of a dataset for the task of the model.
        data: settings of data loading.
        config: settings of the evaluation.
        options: an instance of the options that the task declares.
    """

    subject: Subject
    images: Any
    data: DataConfig
    config: EvalConfig
    options: Any = None


@dataclass
class Prediction:
    """The prediction for a single image.

    Args:
        entries: the most important first, each with a ``class``: a classifier's most likely classes
            with their ``probability``; a detector's objects with ``score``, ``box`` (x1, y1, x2, y2
            in pixels) and any ``segmentation`` (the mask in COCO's encoding); of a segmentation
            model the classes that occur, with the ``share`` of their pixels.
        mask: (H, W) int16, the class index of each pixel; None for other tasks.
        pictures: pictures, if they were asked for: by ``""`` the image, with objects or classes of
            pixels over it; by ``"_mask"`` the mask with a color for each class.
        image: the path of the image, or its place among others.
        error: why the image cannot be read, or "".

    Examples:
        >>> import kat
        >>> prediction = kat.load("runs/digits").predict("photos/val/cat/0.png", top=1)
        >>> prediction.image, len(prediction.entries), prediction.error
        ('photos/val/cat/0.png', 1, '')
    """

    entries: list[dict[str, Any]]
    mask: Tensor | None = field(default=None, repr=False)
    pictures: dict[str, Image.Image] = field(default_factory=dict, repr=False)
    image: str = ""
    error: str = ""

    def _repr_html_(self) -> str:
        """Return the picture, if it was asked for, and the entries as bars, for a notebook."""
        picture = picture_html(self.pictures[""]) if self.pictures else ""
        values = [tuple(entry.values())[:2] for entry in self.entries]
        return picture + table_html([("image", f"{self.image} {self.error}"), *values])


class Table(NamedTuple):
    """A table: column names and rows of cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(repr=False)
class Evaluation:
    """The result of evaluating a model on a dataset; ``print(result)`` shows the summary.

    Args:
        classes: class names of the data.
        metrics: metrics by name; NaN if no image contributes to one.
        images: number of evaluated images.
        skipped: skipped files, with the reason for each.
        seconds: wall time of the evaluation, data loading included.
        lines: summary to print.
        per_class: metrics per class, one row per class with images.
        notes: remarks on the data, one line each.
        warning: why the metrics are suspiciously low, or None.
        details: further results as JSON types.
        tables: further results as tables, by name.
        documents: further results to save as separate JSON files, by name.
        confusion: (K, K), confusion matrix.
        calibration: a :class:`kat.analysis.Calibration` of a classifier.
        predictions: predictions of a classifier for each image:
            :class:`kat.training.tasks.classification.metrics.ClassPredictions`.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data import DataConfig
        >>> from kat.models import load_model
        >>> from kat.training import EvalConfig, evaluate
        >>> model, record = load_model(Path("runs/digits"))
        >>> settings = EvalConfig(device="cpu", progress=False)
        >>> result = evaluate(model, record, DataConfig("digits"), settings)
        >>> sorted(result.metrics), result.confusion.shape
        (['ece', 'loss', 'macro_f1', 'macro_precision', 'macro_recall', ...], (10, 10))
    """

    classes: list[str]
    metrics: dict[str, float]
    images: int
    skipped: dict[str, str]
    seconds: float
    lines: list[str]
    per_class: Table
    notes: list[str] = field(default_factory=list)
    warning: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    confusion: np.ndarray | None = None
    calibration: Any = None
    predictions: Any = None

    def __repr__(self) -> str:
        """Return the summary."""
        return "\n".join(self.lines)

    @property
    def images_per_second(self) -> float:
        """images / seconds."""
        return self.images / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return everything except tables and documents, as JSON types.

        A number that is not finite becomes None.
        """
        named = [dict(zip(self.per_class.columns, r, strict=True)) for r in self.per_class.rows]
        content = {
            **self.metrics,
            "images": self.images,
            "skipped": len(self.skipped),
            "images_per_second": self.images_per_second,
            "notes": self.notes,
            "warning": self.warning,
            "skipped_files": self.skipped,
            **self.details,
            "per_class": named,
        }
        return json.loads(json.dumps(content), parse_constant=lambda _: None)


def device_of(model: nn.Module, config: EvalConfig) -> torch.device:
    """Return the device to evaluate on.

    Raises:
        InputError: this machine has no such device, or an exported model cannot run on it.
    """
    if next(model.parameters(), None) is None:
        if config.precision != "32-true" or config.device not in ("auto", "cpu"):
            raise InputError(
                "an exported model runs on the CPU in the precision of its export, so device and"
                f" precision cannot be changed: got {config.device} and {config.precision}"
            )
        return torch.device("cpu")
    if config.device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=config.device).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = first_line(error).partition(". ")[0]  # a list of all devices follows
        raise InputError(
            f"device {config.device} is unavailable; a GPU is cuda or cuda:1 ({reason})"
        ) from None


def batches_of(images: ImageDataset, data: DataConfig, progress: bool) -> Iterator[Batch]:
    """Yield the batches of a split, with a progress bar in a terminal.

    Raises:
        InputError: an image cannot be read, and ``data.bad_images`` is ``fail``; or none can.
    """
    loader = make_loader(images, data, training=False)
    console = Console(stderr=True)
    bar = track(loader, "evaluating", console=console, transient=True)
    read = 0
    for batch in bar if progress and console.is_terminal else loader:  # a hidden bar ends in a line
        read += len(batch.labels)
        yield batch
    if not read:
        raise InputError("the validation split has no image that can be read")


class ImagePass:
    """Iterates over the images of a split for a detector or a segmentation model.

    Args:
        job: the evaluation; the transform of its images is set.

    Raises:
        InputError: the data has other classes than the model.
    """

    def __init__(self, job: EvalJob) -> None:
        subject, images, data, config, _ = job
        record = subject.record
        columns, self.notes = match_classes(record.classes, images.classes)
        if len(columns) < len(record.classes):
            raise InputError(
                f"{subject.source} has {len(record.classes)} classes and {data.name} has"
                f" {len(columns)}"
            )
        check_weights(subject.source, subject.model)
        self.notes += images.note.splitlines()
        self.device = device_of(subject.model, config)
        self.model = subject.model.eval()
        self.columns = torch.tensor(columns)
        """(K,): for each class of the data, its index among the K classes of the model."""
        self.counted = 0
        self.skipped = dict(images.ignored)
        self.precision = Precision(config.precision, self.device)
        self._job = job
        self._prepare = DeviceTransform(record.mean, record.std)
        self._start = time.perf_counter()

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield each normalized image (C, H, W), on the device, with its target."""
        _, images, data, config, _ = self._job
        if config.limit is not None:
            images = images.evenly_spaced(config.limit)
        data = replace(data, batch_size=min(data.batch_size, _LOADED))
        for batch in batches_of(images, data, config.progress):
            self.skipped |= dict(batch.unreadable)
            for image, target in zip(batch.images, batch.labels, strict=True):
                self.counted += 1
                yield self._prepare(image[None].to(self.device))[0], target

    def evaluation(self, summary: Sequence[str], **results: Any) -> Evaluation:
        """Return lines and results with the classes, and with the images and seconds so far."""
        first = f"{self._job.data.name}, {counted(self.counted, 'image')}: {summary[0]}"
        return Evaluation(
            self._job.images.classes,
            lines=[first, *summary[1:]],
            images=self.counted,
            skipped=self.skipped,
            seconds=time.perf_counter() - self._start,
            **results,
        )
