"""Diagnosis of a classifier whose accuracy is near chance or far below its run's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from kat.data import located
from kat.errors import InputError
from kat.models import registered_preprocessing, stored_weights
from kat.training.evaluation.class_match import (
    IMAGENET,
    ClassMatch,
    imagenet_indices,
    imagenet_synsets,
)
from kat.training.evaluation.confusion import confusion_matrix
from kat.training.evaluation.evaluation import Subject
from kat.training.evaluation.prediction import ClassPredictions
from kat.training.run_directory import (
    BEST,
    LAST,
    RESULTS,
    SETTINGS,
    read_data_record,
    read_history,
    read_settings,
)

SIGNIFICANCE = 0.01
"""The level at which an accuracy is significantly above chance."""
FAR_BELOW = 10.0
"""Percentage points that top-1 may be below the record before it is reported."""
_NEARLY_ALL = 0.5
"""The share of one class among the predictions from which they are reported as constant."""


class Classified(NamedTuple):
    """A classifier and what it predicted.

    Args:
        subject: the model and its stored record.
        overridden: preprocessing that differs from the record: name to (stored, given).
        classes: class names of the data.
        match: mapping from the classes of the data to those of the model.
        predictions: predictions for all images.
    """

    subject: Subject
    overridden: dict[str, tuple[Any, Any]]
    classes: list[str]
    match: ClassMatch
    predictions: ClassPredictions


def suspicion(predictions: ClassPredictions, classes: int, recorded: float | None) -> str | None:
    """Describes a suspiciously low top-1 accuracy in one line, or returns None.

    Top-1 is near chance if guessing among K classes would reach it with probability
    P(X >= hits) > 0.01, X ~ Binomial(N, 1/K), and N is large enough for the test. It is far below
    the record if it is lower by more than ten percentage points and three standard errors.

    Args:
        predictions: predictions for N images.
        classes: number of classes K.
        recorded: top-1 in percent that the run recorded for these weights on this data, or None.
    """
    hits = predictions.hits[:, 0]
    top1, images = 100 * float(hits.mean()), len(hits)
    if not _above_chance(hits, classes):
        return (
            f"top-1 {top1:.2f} % on {images} images cannot be told from chance, which is"
            f" {100 / classes:.2f} % with {classes} classes"
        )
    if recorded is None:
        return None
    share = np.clip(recorded / 100, 0, 1)
    error = 100 * np.sqrt(share * (1 - share) / images)
    if recorded - top1 > max(FAR_BELOW, 3 * error):
        return f"top-1 {top1:.2f} % is far below the {recorded:.2f} % that the run recorded"
    return None


def recorded_top1(path: Path | str, data_name: str) -> float | None:
    """Top-1 in percent that a run recorded for the weights at a path, if on the same dataset.

    A run that was validated on a holdout of the training split recorded that of other images.
    """
    if isinstance(path, str):
        return None
    folder = path if path.is_dir() else path.parent
    if not (folder / SETTINGS).is_file():
        return None
    data = read_settings(folder).get("data")
    history = read_history(folder)
    top1 = [row["top1"] for row in history if "top1" in row]
    if not isinstance(data, dict) or not top1:
        return None
    if data.get("validate_on", "split") == "holdout":
        return None
    if located(data, read_data_record(folder)).get("name") != data_name:
        return None
    if path.name == LAST:
        return top1[-1]
    if path.is_dir() or path.name in (BEST, *RESULTS):
        kept = [row["top1"] for row in history if row.get("best")]
        return kept[-1] if kept else None
    return None


def explain(found: Classified) -> list[str]:
    """The findings, one line each: possible causes, and causes that were ruled out."""
    findings = [
        _constant(found.predictions, found.classes),
        _permuted(found.predictions, found.classes),
        _class_order(found),
        *_preprocessing(found),
        *_weights(found.subject),
        "activations: every logit is finite",
    ]
    return [finding for finding in findings if finding is not None]


def _above_chance(hits: np.ndarray, classes: int) -> bool:
    """Whether guessing is unlikely to reach it, or there are too few images for a test."""
    if classes ** -float(len(hits)) > SIGNIFICANCE:
        return True
    return float(binom.sf(hits.sum() - 1, len(hits), 1 / classes)) <= SIGNIFICANCE


def _constant(predictions: ClassPredictions, classes: list[str]) -> str | None:
    counts = np.bincount(predictions.top[:, 0], minlength=len(classes))
    likeliest = int(counts.argmax())
    share, due = counts[likeliest] / counts.sum(), (predictions.labels == likeliest).mean()
    if share < max(_NEARLY_ALL, 2 * due):
        return None
    return (
        f"constant predictions: {classes[likeliest]!r} is predicted for"
        f" {100 * share:.1f} % of the images and correct for {100 * due:.1f} %; the weights may be"
        " untrained or damaged, or the pixels may not be scaled as the model expects"
    )


def _permuted(predictions: ClassPredictions, classes: list[str]) -> str | None:
    """Whether a permutation of the classes would explain the predictions.

    The permutation is fitted on one half of each class's images and tested on the other half, so
    that chance level stays 1/K.
    """
    labels, predicted, count = predictions.labels, predictions.top[:, 0], len(classes)
    order = np.argsort(labels, kind="stable")
    chosen, tried = order[::2], order[1::2]
    counts = confusion_matrix(labels[chosen], predicted[chosen], count)
    _, renamed = linear_sum_assignment(counts, maximize=True)
    hits = renamed[labels[tried]] == predicted[tried]
    top1 = 100 * predictions.hits[:, 0].mean()
    if not len(tried) or 100 * hits.mean() <= top1 + FAR_BELOW or not _above_chance(hits, count):
        return None
    moved = np.where(renamed != np.arange(count), counts[np.arange(count), renamed], -1)
    example = int(moved.argmax())
    return (
        "class order: it seems to be permuted. With a permutation of the classes fitted on one half"
        f" of the images, top-1 on the other half is {100 * hits.mean():.1f} %; images of"
        f" {classes[example]!r} (class {example}) are predicted as"
        f" {classes[renamed[example]]!r} (class {renamed[example]})"
    )


def _class_order(found: Classified) -> str:
    ours, theirs = len(found.subject.record.classes), found.classes
    by = {
        "names": "matched by name",
        "ImageNet": "matched by ImageNet synset",
        "position": "matched by position, since one side has numbers instead of names",
    }[found.match.basis]
    counted = f"classes: the model has {ours}, the data {len(theirs)}, {by}"
    if found.match.basis != "position" and len(theirs) != IMAGENET:
        return counted
    return f"{counted}; {_against_imagenet(theirs)}"


def _against_imagenet(names: list[str]) -> str:
    """How the classes of the data relate to those of ImageNet-1k."""
    indices = imagenet_indices(names)
    if indices is not None and len(names) == IMAGENET:
        same = indices == list(range(IMAGENET))
        return f"the data's are in ImageNet's order: {'yes' if same else 'no'}"
    if all(name.isdecimal() for name in names):
        values = sorted(map(int, names))
        return f"the data's are numbers, from {values[0]} to {values[-1]}"
    synsets = set(imagenet_synsets())
    known = sum(name in synsets for name in names)
    if known:
        return f"{known} of the data's {len(names)} are synsets of ImageNet-1k"
    order = ", and stand in alphabetical order, which is not ImageNet's"
    return (
        f"the data's are names, not ImageNet's synsets{order if names == sorted(names) else ''}"
        f" ({names[0]!r} to {names[-1]!r})"
    )


def _preprocessing(found: Classified) -> list[str]:
    record = found.subject.record
    lines = [
        f"preprocessing: {name} is {given} here and {stored} in the checkpoint's record"
        for name, (stored, given) in found.overridden.items()
    ]
    try:
        registered = registered_preprocessing(record.architecture)
    except InputError:
        return lines
    differing = {
        name: (getattr(record, name), value)
        for name, value in registered.items()
        if not _same(getattr(record, name), value)
    }
    return lines + [
        f"preprocessing: {name} is {stored} in the checkpoint's record and {value} in timm's"
        f" registry for {record.architecture}"
        for name, (stored, value) in differing.items()
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return one == other
    one, other = np.atleast_1d(one), np.atleast_1d(other)
    return one.shape == other.shape and bool(np.allclose(one, other))


def _weights(subject: Subject) -> list[str]:
    """Whether all weights of the file were loaded, and which other sets of weights it holds."""
    if isinstance(subject.source, str) or not any(True for _ in subject.model.parameters()):
        return []
    weights, others = stored_weights(subject.source)
    own = subject.model.state_dict().keys()
    left, lacking = sorted(weights.keys() - own), sorted(own - weights.keys())
    lines = [f"weights: all {len(weights)} tensors were loaded, and none is missing"]
    if left or lacking:
        lines = [
            f"weights: {len(left)} tensors were not loaded and {len(lacking)} of the model are"
            f" missing, first {(left or lacking)[0]}"
        ]
    if others:
        lines.append(f"weights: the file also holds {', '.join(others)}, which was not used")
    return lines
