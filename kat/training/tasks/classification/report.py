"""The report of a classifier's evaluation: metrics, lines, tables, ImageNet's other labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom, binomtest
from timm.data import RealLabelsImagenet

from kat.errors import InputError
from kat.files import open_input
from kat.text import counted
from kat.training.tasks.classification.metrics import (
    TOP,
    Calibration,
    ClassPredictions,
    ClassScores,
    Confused,
    calibration,
    class_scores,
    confusion_matrix,
    macro_means,
    most_confused,
)
from kat.training.tasks.evaluation import Evaluation, Table
from kat.training.tasks.match import imagenet_indices

_PAIRS = 20
"""The number of most confused pairs of classes in an evaluation."""
_SHOWN, _RANKED = 3, 10
"""The number of printed classes of lowest and highest recall, and the least number of classes."""
_FEW = 1000
"""The number of images from which an accuracy has no interval."""
_SIGNIFICANCE = 0.01
"""The level at which an accuracy is significantly above chance."""
_CLASS_COLUMNS = (
    "class", "images", "correct", "recall", "predicted", "precision", "f1", "mistaken_for",
)  # fmt: skip
SHIPPED = "timm"
"""The name of the reassessed labels that timm ships."""


def from_predictions(
    predictions: ClassPredictions,
    classes: list[str],
    data: str,
    seconds: float,
    skipped: dict[str, str] | None = None,
    real: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluate the predictions of a classifier.

    Args:
        predictions: predictions for all images.
        classes: class names of the data.
        data: name of the dataset.
        seconds: time of the predictions.
        skipped: skipped files, with the reason for each.
        real: accuracies by ImageNet's reassessed labels.
    """
    hits, confidence = predictions.hits, predictions.probabilities[:, 0]
    matrix = confusion_matrix(predictions.labels, predictions.top[:, 0], len(classes))
    bins = calibration(confidence, hits[:, 0])
    by_class = class_scores(matrix, classes)
    pairs = most_confused(matrix, classes, _PAIRS)
    metrics = {"top1": 100 * float(hits[:, 0].mean())}
    if len(classes) > TOP:
        metrics["top5"] = 100 * float(hits.any(axis=1).mean())
    metrics |= macro_means(by_class)
    metrics["loss"] = float(predictions.losses.mean(dtype=np.float64))
    metrics["ece"] = bins.ece
    metrics["mean_confidence"] = float(confidence.mean(dtype=np.float64))
    metrics |= real or {}
    evaluation = Evaluation(
        classes=classes,
        metrics=metrics,
        images=len(predictions.labels),
        skipped=skipped or {},
        seconds=seconds,
        lines=[],
        per_class=Table(_CLASS_COLUMNS, [_cells(row) for row in by_class]),
        details={"calibration": _calibration_rows(bins), "most_confused": list(map(vars, pairs))},
        tables={"predictions": _prediction_table(predictions, classes)},
        confusion=matrix,
        calibration=bins,
        predictions=predictions,
    )
    evaluation.lines = _lines(evaluation, data, by_class, pairs)
    return evaluation


def _cells(row: ClassScores) -> list[Any]:
    return [row.name, *(getattr(row, column) for column in _CLASS_COLUMNS[1:])]


def _lines(
    found: Evaluation, data: str, by_class: Sequence[ClassScores], pairs: Sequence[Confused]
) -> list[str]:
    metrics = found.metrics
    top5 = f", top-5 {metrics['top5']:.2f} %" if "top5" in metrics else ""
    accuracy = f"top-1 {metrics['top1']:.2f} %{interval(metrics['top1'], found.images)}{top5}"
    others = f"macro F1 {metrics['macro_f1']:.2f} %, loss {metrics['loss']:.4f}"
    counts = f"{found.images} images ({counted(len(found.skipped), 'file')} skipped)"
    confidence = f"mean confidence {100 * metrics['mean_confidence']:.2f} %"
    lines = [
        f"{data}: {accuracy}, {others} on {counts}",
        f"{found.images_per_second:.0f} images/s; ECE {metrics['ece']:.4f}, {confidence}",
    ]
    if metrics.get("real_images"):
        lines.append(
            f"real labels: top-1 {metrics['real_top1']:.2f} %, top-5 {metrics['real_top5']:.2f} %"
            f" on {metrics['real_images']:.0f} images"
        )
    seen = [row for row in by_class if row.images]
    seen.sort(key=lambda row: row.correct / row.images)
    ranked = [f"{row.name} {row.recall:.1f} %" for row in seen]
    if len(ranked) >= _RANKED:
        lines.append(f"lowest recall: {', '.join(ranked[:_SHOWN])}")
        lines.append(f"highest recall: {', '.join(ranked[: -_SHOWN - 1 : -1])}")
    confused = [
        f"{pair.true} taken for {pair.predicted} ({pair.count} of {pair.images})"
        for pair in pairs[:_SHOWN]
    ]
    return lines + ([f"most confused: {', '.join(confused)}"] if confused else [])


def interval(accuracy: float, images: int) -> str:
    """Return the 95 % interval of an accuracy, by Wilson, as text; none from 1,000 images on.

    Args:
        accuracy: in percent.
        images: number of images.
    """
    right = round(accuracy * images / 100)
    ends = binomtest(right, images).proportion_ci(method="wilson")
    text = f" (95 % CI {100 * ends.low:.0f} to {100 * ends.high:.0f})"
    return text if images < _FEW else ""


def _calibration_rows(found: Calibration) -> list[dict[str, float]]:
    edges, counts = found.edges.tolist(), found.counts.tolist()
    confidence, accuracy = found.confidence.tolist(), found.accuracy.tolist()
    rows = []
    for i, images in enumerate(counts):
        row = {"from": edges[i], "to": edges[i + 1], "images": images}
        row |= {"confidence": confidence[i], "accuracy": accuracy[i]}
        rows.append(row)
    return rows


def _prediction_table(predictions: ClassPredictions, classes: Sequence[str]) -> Table:
    """Return a table of all images with their true and most likely classes."""
    columns = ["file", "label"]
    for rank in range(1, predictions.top.shape[1] + 1):
        columns += [f"class{rank}", f"p{rank}"]
    rows = []
    for i, name in enumerate(predictions.names):
        row = [name, classes[predictions.labels[i]]]
        for index, probability in zip(
            predictions.top[i], predictions.probabilities[i], strict=True
        ):
            row += [classes[index], f"{probability:.6g}"]
        rows.append(row)
    return Table(columns, rows)


def suspicion(predictions: ClassPredictions, classes: int) -> str | None:
    """Return a warning if guessing would reach the top-1 accuracy, or None.

    Top-1 is near chance if guessing among K classes reaches it with probability
    P(X >= hits) > 0.01, X ~ Binomial(N, 1/K), and N is large enough for the test.
    """
    hits = predictions.hits[:, 0]
    possible = classes ** -float(len(hits)) <= _SIGNIFICANCE
    if not possible or binom.sf(hits.sum() - 1, len(hits), 1 / classes) <= _SIGNIFICANCE:
        return None
    return (
        f"top-1 {100 * hits.mean():.2f} % on {len(hits)} images cannot be told from chance, which"
        f" is {100 / classes:.2f} % with {classes} classes: there may be too few images, of"
        " another kind than the training's, or classes, preprocessing or weights may be wrong"
    )


def read_real_labels(source: str) -> dict[str, list[int]]:
    """Read the correct classes of ImageNet's validation images, by file name.

    Args:
        source: path of a ``real.json`` of github.com/google-research/reassessed-imagenet (Beyer et
            al. 2020, arXiv 2006.07159), or ``"timm"`` for the copy that timm ships.
    """
    if source != SHIPPED:
        open_input(source).close()
    file_names = range(50_000)  # timm's class compares their number alone
    return RealLabelsImagenet(file_names, None if source == SHIPPED else source).real_labels


def real_accuracy(
    predictions: ClassPredictions, indices: Sequence[int], labels: Mapping[str, list[int]]
) -> dict[str, float]:
    """Compute top-1 and top-5 in percent by the reassessed labels, over the images that have any.

    Args:
        predictions: of images of ImageNet's validation set.
        indices: ImageNet's index of each class.
        labels: the right classes of each file name.
    """
    hits = []
    guesses = np.array(indices)[predictions.top].tolist()
    for name, top in zip(predictions.names, guesses, strict=True):
        right = labels[Path(name).name]
        if right:
            hits.append([guess in right for guess in top])
    return {
        "real_top1": 100 * sum(row[0] for row in hits) / len(hits) if hits else math.nan,
        "real_top5": 100 * sum(map(any, hits)) / len(hits) if hits else math.nan,
        "real_images": len(hits),
    }


def check_imagenet(
    classes: Sequence[str], names: Iterable[str], labels: Mapping[str, list[int]]
) -> list[int]:
    """Return ImageNet's indices of classes, and check that images are of its validation set."""
    indices = imagenet_indices(classes)
    strange = next((name for name in names if Path(name).name not in labels), None)
    if indices is None or strange is not None:
        raise InputError(
            "real labels exist for ImageNet-1k only: the classes of the data must be its synsets or"
            " class indices, and the files ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG, got"
            f" {strange or classes[0]!r}"
        )
    return indices
