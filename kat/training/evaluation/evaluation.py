"""Settings and results of evaluating a model, shared by all tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from kat.data import Batch, DataConfig, ImageDataset, ImageStream, make_loader
from kat.errors import InputError
from kat.models import ModelRecord
from kat.settings import Count, Side
from kat.training.evaluation.confusion import Calibration
from kat.training.evaluation.prediction import ClassPredictions


@dataclass
class EvalConfig:
    """How a model is run over a dataset.

    Args:
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        precision: what the forward pass is computed in.
        limit: evaluate on no more than this many images, evenly spread over the split (the first
            ones of a stream).
        image_size: side of the square that a classifier sees, in pixels; of a segmentation model
            the shorter side of the image, of a detector the longer one; None: as stored.
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


class Table(NamedTuple):
    """A table: column names and rows of cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Evaluation:
    """The result of evaluating a model on a dataset.

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
        findings: possible causes of the warning, one line each.
        details: further results as JSON types.
        tables: further results as tables, by name.
        documents: further results to save as separate JSON files, by name.
        confusion: (K, K), confusion matrix.
        calibration: calibration of a classifier.
        predictions: predictions of a classifier for each image.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data import DataConfig
        >>> from kat.models import load_model
        >>> from kat.training import EvalConfig, evaluate
        >>> model, record = load_model(Path("runs/digits"))
        >>> settings = EvalConfig(device="cpu", progress=False)
        >>> result = evaluate(model, record, DataConfig("digits"), settings)
        >>> sorted(result.metrics), result.confusion.shape
        (['ece', 'loss', 'mean_confidence', 'top1', 'top5'], (10, 10))
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
    findings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    confusion: np.ndarray | None = None
    calibration: Calibration | None = None
    predictions: ClassPredictions | None = None

    @property
    def images_per_second(self) -> float:
        """images / seconds."""
        return self.images / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Everything except tables and documents, as JSON types; NaN becomes None."""
        named = [dict(zip(self.per_class.columns, r, strict=True)) for r in self.per_class.rows]
        content = {
            **self.metrics,
            "images": self.images,
            "skipped": len(self.skipped),
            "images_per_second": self.images_per_second,
            "notes": self.notes,
            "warning": self.warning,
            "findings": self.findings,
            "skipped_files": self.skipped,
            **self.details,
            "per_class": named,
        }
        without_nan: dict[str, Any] = _without_nan(content)
        return without_nan


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def device_of(model: nn.Module, config: EvalConfig) -> torch.device:
    """The device to evaluate on.

    Raises:
        InputError: the device is unavailable, or an exported model cannot run on it.
    """
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit must be at least 1, got {config.limit}")
    if not any(True for _ in model.parameters()):
        if config.precision != "32-true" or config.device not in ("auto", "cpu"):
            raise InputError(
                "an exported model runs on the CPU in the precision of its export, so device and"
                f" precision cannot be changed: got {config.device} and {config.precision}"
            )
        return torch.device("cpu")
    if config.device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=config.device)
        return torch.device(config.device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {config.device!r} is unavailable: {reason}") from None


def device_of_weights(model: nn.Module) -> torch.device:
    """The device on which a model takes its inputs; the CPU for an exported one."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def batches_of(
    images: ImageDataset | ImageStream, data: DataConfig, progress: bool
) -> Iterator[Batch]:
    """Yields the batches of a split, with a progress bar in a terminal.

    Raises:
        InputError: an image cannot be read, and ``data.bad_images`` is ``fail``.
    """
    loader = make_loader(images, data, training=False)
    console = Console(stderr=True)
    hidden = not progress or not console.is_terminal
    total = len(loader) if isinstance(images, ImageDataset) else None
    for batch in track(
        loader, "evaluating", total=total, console=console, transient=True, disable=hidden
    ):
        if batch.unreadable and data.bad_images == "fail":
            name, reason = batch.unreadable[0]
            raise InputError(f"{name} cannot be read as an image: {reason}")
        yield batch
