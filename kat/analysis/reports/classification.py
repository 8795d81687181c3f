"""The files of a classifier's evaluation: metrics, tables, figures, every prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kat.analysis.figures.classification import draw_reliability
from kat.analysis.figures.save import save_figure
from kat.analysis.inspect.classification import (
    ClassAccuracy,
    calibration,
    class_accuracies,
    confusion_matrix,
    most_confused,
)
from kat.analysis.reports.evaluation import finite, write_confusion, write_metrics
from kat.tables import write_table
from kat.training import Answers

_PAIRS = 20
"""Confused pairs that are listed."""
_CLASS_COLUMNS = (
    "class", "images", "correct", "accuracy", "predicted", "precision", "mistaken_for",
)  # fmt: skip


class ClassificationReport:
    """What follows from a classifier's predictions.

    Args:
        predictions: for each image.
        classes: the class names.
    """

    def __init__(self, predictions: Answers, classes: list[str]) -> None:
        self.predictions = predictions
        self.classes = classes
        predicted = predictions.top[:, 0]
        confidence = predictions.probabilities[:, 0]
        self.matrix = confusion_matrix(predictions.labels, predicted, len(classes))
        self.calibration = calibration(confidence, predicted == predictions.labels)
        self.by_class = class_accuracies(self.matrix, classes)
        self.confused = most_confused(self.matrix, classes, _PAIRS)

    def to_dict(self) -> dict[str, Any]:
        """ECE, the bins of the calibration, accuracy by class, the most confused pairs."""
        bins = self.calibration
        return {
            "ece": bins.ece,
            "mean_confidence": float(self.predictions.probabilities[:, 0].mean(dtype=np.float64)),
            "calibration": [
                {"from": low, "to": high, "images": count, "confidence": confidence, "accuracy": a}
                for low, high, count, confidence, a in zip(
                    bins.edges[:-1].tolist(),
                    bins.edges[1:].tolist(),
                    bins.counts.tolist(),
                    map(finite, bins.confidence.tolist()),
                    map(finite, bins.accuracy.tolist()),
                    strict=True,
                )
            ],
            "per_class": [
                {"class": row.name, "images": row.images, "accuracy": row.accuracy}
                for row in self.by_class
            ],
            "most_confused": [asdict(pair) for pair in self.confused],
        }

    def write(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Writes metrics.json, three tables as CSV and two figures as PNG and SVG.

        Args:
            folder: created if it is missing; files of these names in it are replaced.
            metrics: the contents of metrics.json.
        """
        write_metrics(metrics, folder)
        write_table(folder / "per_class.csv", _CLASS_COLUMNS, map(_class_row, self.by_class))
        write_confusion(self.matrix, self.classes, folder)
        ranks = range(1, self.predictions.top.shape[1] + 1)
        columns = ["file", "label", *(f"{kind}{k}" for k in ranks for kind in ("class", "p"))]
        write_table(folder / "predictions.csv", columns, self._prediction_rows())
        for ending in ("png", "svg"):
            save_figure(draw_reliability(self.calibration), folder / f"reliability.{ending}")

    def _prediction_rows(self) -> Iterable[list[object]]:
        predictions = self.predictions
        for name, label, top, probabilities in zip(
            predictions.names,
            predictions.labels.tolist(),
            predictions.top.tolist(),
            predictions.probabilities.tolist(),
            strict=True,
        ):
            guesses = zip(top, probabilities, strict=True)
            pairs = ((self.classes[index], f"{p:.6g}") for index, p in guesses)
            yield [name, self.classes[label], *(cell for pair in pairs for cell in pair)]


def _class_row(row: ClassAccuracy) -> list[object]:
    return [
        row.name, row.images, row.correct, row.accuracy, row.predicted, row.precision,
        row.mistaken_for,
    ]  # fmt: skip
