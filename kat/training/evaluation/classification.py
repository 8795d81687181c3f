"""The evaluation of a model on a data set: one pass, from which every figure is computed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from kat.data import (
    Batch,
    DataConfig,
    DevicePreparation,
    ImageSet,
    ImageStream,
    check_data,
    eval_transform,
    make_loader,
    open_split,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.evaluation.class_match import ClassMatch, match_classes
from kat.training.nonfinite import first_not_finite

TOP = 5
"""How many of the likeliest classes are kept of each image."""

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class EvalConfig:
    """How a model is run over a data set.

    Args:
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        precision: what the forward pass is computed in.
        limit: look at no more than this many images, evenly spread over the split (the first ones
            of a stream).
        keep_logits: keep every logit, 4 bytes an image and class.
        progress: show a progress bar.
    """

    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    limit: int | None = None
    keep_logits: bool = False
    progress: bool = True


@dataclass
class Answers:
    """What a model says of the N images that could be read, in the order of the split.

    Args:
        names: the file's path, or what else names the image.
        labels: (N,) int64, the true class among those of the data.
        top: (N, k) int64, the likeliest classes, the likeliest first; k = 5 or the classes there
            are.
        probabilities: (N, k) float32, theirs.
        true_probability: (N,) float32, that of the true class.
        losses: (N,) float32, the cross entropy of each image.
        logits: (N, classes) float32, if they were asked for.
    """

    names: list[str]
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    true_probability: np.ndarray
    losses: np.ndarray
    logits: np.ndarray | None = None


@dataclass
class Evaluation:
    """The answers, and what belongs to them.

    Args:
        classes: the class names of the data.
        match: where these are among the model's.
        answers: of each image that could be read.
        unreadable: the images that could not, and why.
        ignored: files that were passed over, and why.
        seconds: wall time of the pass, loading included.
    """

    classes: list[str]
    match: ClassMatch
    answers: Answers
    unreadable: dict[str, str]
    ignored: dict[str, str]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Top-1, top-5 (per cent), mean loss, and what was counted."""
        answers = self.answers
        hits = answers.top == answers.labels[:, None]
        return {
            "top1": 100 * float(hits[:, 0].mean()),
            "top5": 100 * float(hits.any(axis=1).mean()),
            "loss": float(answers.losses.mean(dtype=np.float64)),
            "images": len(answers.labels),
            "skipped": len(self.skipped_files()),
            "images_per_second": len(answers.labels) / self.seconds,
        }

    def skipped_files(self) -> dict[str, str]:
        """Each file that was left out, and why."""
        unreadable = {
            name: f"it cannot be read as an image: {reason}"
            for name, reason in self.unreadable.items()
        }
        return {**self.ignored, **unreadable}


def evaluate(
    model: nn.Module,
    record: ModelRecord,
    data: DataConfig,
    config: EvalConfig | None = None,
    *,
    source: str = "the model",
) -> Evaluation:
    """Runs a model over the validation split of a data set; every readable image counts once.

    Args:
        model: maps images to logits; moved to the device.
        record: its classes, and how it wants its images.
        data: where the images are, and how they are loaded; its preprocessing is not used.
        config: how to run the model.
        source: what to call the model in an error.

    Raises:
        InputError: settings out of range, classes that are not the model's, no image that can be
            read, or logits that are not finite.
    """
    config = config or EvalConfig()
    check_data(data)
    device = check_device(model, config)
    images = open_split(data, "val")
    match = match_classes(record.classes, images.classes)
    if config.limit is not None and isinstance(images, ImageSet):
        images = images.spread(config.limit)
    images.transform = eval_transform(record, normalize=False)
    prepare = DevicePreparation(record.mean, record.std)
    start = time.perf_counter()
    try:
        answers, unreadable = _collect(
            model.to(device), prepare, images, match.columns, data, config
        )
    except _NotFinite as error:
        raise InputError(
            f"the logits of {source} are not finite; its weights are damaged or its training has"
            f" diverged: {error}"
        ) from None
    seconds = time.perf_counter() - start
    return Evaluation(images.classes, match, answers, unreadable, images.ignored, seconds)


def with_preprocessing(
    record: ModelRecord, **given: Any
) -> tuple[ModelRecord, dict[str, tuple[Any, Any]]]:
    """A record with other preprocessing, and what differs: name to (stored, given).

    Args:
        record: what is stored with the model.
        given: input_size, mean, std, interpolation, crop_pct; None keeps what is stored.

    Raises:
        InputError: a value that makes no sense.
    """
    given = {name: _plain(value) for name, value in given.items() if value is not None}
    differing = {
        name: (getattr(record, name), value)
        for name, value in given.items()
        if _plain(getattr(record, name)) != value
    }
    return dataclasses.replace(record, **given), differing


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def check_device(model: nn.Module, config: EvalConfig) -> torch.device:
    """The device that is asked for."""
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit must be at least 1, got {config.limit}")
    if not any(True for _ in model.parameters()):
        if config.precision != "32-true" or config.device not in ("auto", "cpu"):
            raise InputError(
                "an exported file runs on the CPU in the precision it was exported in, so device"
                f" and precision cannot be chosen: got {config.device} and {config.precision}"
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
        raise InputError(f"device {config.device!r} cannot be had here: {reason}") from None


def predict_batch(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (B, classes), float32, of a batch whose images are on the model's device."""
    return model(batch.images).float()


@torch.inference_mode()
def _collect(
    model: nn.Module,
    prepare: DevicePreparation,
    images: ImageSet | ImageStream,
    columns: Sequence[int],
    data: DataConfig,
    config: EvalConfig,
) -> tuple[Answers, dict[str, str]]:
    """One pass over the images: the answers, and what could not be read and why."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = _names(images)
    kept: list[tuple[np.ndarray, ...]] = []
    seen: list[str] = []
    unreadable: dict[str, str] = {}
    for batch in _limited(batches_of(images, data, config.progress), config.limit):
        if batch.unreadable and data.bad_images == "fail":
            name, reason = batch.unreadable[0]
            raise InputError(f"{name} cannot be read as an image: {reason}")
        unreadable |= dict(batch.unreadable)
        taken = islice(names, len(batch.labels) + len(batch.unreadable))
        seen += [name for name in taken if name not in unreadable]
        if len(batch.labels) == 0:
            continue
        batch = batch._replace(images=prepare(batch.images.to(device, non_blocking=True)))
        with precision_of(device, config):
            logits = predict_batch(model, batch)
            if not logits.isfinite().all():
                raise _not_finite(model, batch)
        kept.append(_keep(logits, batch.labels, columns, config.keep_logits))
    if not kept:
        raise InputError("the validation split has no image that can be read")
    labels, top, probabilities, true_probability, losses, *logits_of = map(
        np.concatenate, zip(*kept, strict=True)
    )
    return Answers(
        seen, labels, top, probabilities, true_probability, losses, *logits_of
    ), unreadable


def _keep(
    logits: Tensor, labels: Tensor, columns: Sequence[int], keep_logits: bool
) -> tuple[np.ndarray, ...]:
    """What is kept of a batch: the fields of :class:`Answers` but the names."""
    if list(columns) != list(range(logits.shape[1])):
        logits = logits[:, torch.tensor(columns, device=logits.device)]
    labels = labels.to(logits.device)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError(
            f"the data has a label {int(labels.max())}, but {logits.shape[1]} classes; give"
            " data.num_classes"
        )
    log_probability = logits.log_softmax(-1)
    true = log_probability.gather(1, labels[:, None])[:, 0]
    top = logits.topk(min(TOP, logits.shape[1])).indices
    kept = (labels, top, log_probability.gather(1, top).exp(), true.exp(), -true)
    return tuple(tensor.cpu().numpy() for tensor in (*kept, *([logits] if keep_logits else [])))


class _NotFinite(Exception):
    """The logits of a batch are not finite; the message says where that begins."""


def _not_finite(model: nn.Module, batch: Batch) -> _NotFinite:
    finding = first_not_finite(model, lambda: predict_batch(model, batch))
    return _NotFinite(finding.detail if finding else "no layer is so when the batch is run again")


def precision_of(device: torch.device, config: EvalConfig) -> AbstractContextManager[Any]:
    """What the forward pass runs in."""
    if config.precision == "32-true":
        return nullcontext()
    return torch.autocast(device.type, _AUTOCAST[config.precision])


def _names(images: ImageSet | ImageStream) -> Iterator[str]:
    """The images' names in the order in which evaluation goes through them."""
    if isinstance(images, ImageSet):
        return map(images.name, range(len(images)))
    return (f"image {index} of the stream" for index in count())


def batches_of(images: ImageSet | ImageStream, data: DataConfig, progress: bool) -> Iterator[Batch]:
    """All batches, with a progress bar in a terminal."""
    loader = make_loader(images, data, training=False)
    console = Console(stderr=True)
    hidden = not progress or not console.is_terminal
    total = len(loader) if isinstance(images, ImageSet) else None
    yield from track(
        loader, "evaluating", total=total, console=console, transient=True, disable=hidden
    )


def _limited(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    """The batches up to the image number ``limit``."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch._replace(images=batch.images[:left], labels=batch.labels[:left])
        left -= len(batch.labels)
        if left <= 0:
            return
