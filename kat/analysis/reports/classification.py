"""The folder that an evaluation leaves behind: figures, tables, and every answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kat.analysis.figures.classification import draw_confusion, draw_reliability
from kat.analysis.figures.plots import save_figure
from kat.analysis.inspect.classification import (
    ClassAccuracy,
    calibration,
    class_accuracies,
    confusion_matrix,
    most_confused,
)
from kat.files import write_text
from kat.tables import write_table

_PAIRS = 20


class Answered(Protocol):
    """What of the answers the report needs; see ``kat.training.Answers``, which has it."""

    @property
    def names(self) -> list[str]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def top(self) -> np.ndarray: ...
    @property
    def probabilities(self) -> np.ndarray: ...


class ClassificationReport:
    """Everything that follows from a classifier's answers.

    Args:
        answers: of each image.
        classes: the class names.
    """

    def __init__(self, answers: Answered, classes: list[str]) -> None:
        self.answers = answers
        self.classes = classes
        predictions = answers.top[:, 0]
        self.matrix = confusion_matrix(answers.labels, predictions, len(classes))
        self.calibration = calibration(answers.probabilities[:, 0], predictions == answers.labels)
        self.by_class = class_accuracies(self.matrix, classes)
        self.confused = most_confused(self.matrix, classes, _PAIRS)

    def ranked(self) -> list[ClassAccuracy]:
        """The classes that have images, the worst first."""
        with_images = [row for row in self.by_class if row.images]
        return sorted(with_images, key=lambda row: row.correct / row.images)

    def to_dict(self) -> dict[str, Any]:
        """ECE, the bins of the calibration, accuracy by class, the most confused pairs."""
        bins = self.calibration
        return {
            "ece": bins.ece,
            "mean_confidence": float(self.answers.probabilities[:, 0].mean(dtype=np.float64)),
            "calibration": [
                {"from": low, "to": high, "images": count, "confidence": confidence, "accuracy": a}
                for low, high, count, confidence, a in zip(
                    bins.edges[:-1].tolist(),
                    bins.edges[1:].tolist(),
                    bins.counts.tolist(),
                    map(_number, bins.confidence.tolist()),
                    map(_number, bins.accuracy.tolist()),
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
            folder: made if it is missing; files of these names in it are replaced.
            metrics: the contents of metrics.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        write_table(folder / "per_class.csv", _CLASS_COLUMNS, map(_class_row, self.by_class))
        rows = ([name, *row] for name, row in zip(self.classes, self.matrix.tolist(), strict=True))
        write_table(folder / "confusion.csv", ["true \\ predicted", *self.classes], rows)
        write_table(folder / "predictions.csv", self._answer_columns(), self._answer_rows())
        for ending in ("png", "svg"):
            save_figure(draw_confusion(self.matrix, self.classes), folder / f"confusion.{ending}")
            save_figure(draw_reliability(self.calibration), folder / f"reliability.{ending}")

    def _answer_columns(self) -> list[str]:
        ranks = range(1, self.answers.top.shape[1] + 1)
        return ["file", "label", *(f"{kind}{k}" for k in ranks for kind in ("class", "p"))]

    def _answer_rows(self) -> Iterable[list[object]]:
        answers = self.answers
        for name, label, top, probabilities in zip(
            answers.names,
            answers.labels.tolist(),
            answers.top.tolist(),
            answers.probabilities.tolist(),
            strict=True,
        ):
            guesses = zip(top, probabilities, strict=True)
            pairs = ((self.classes[index], f"{p:.6g}") for index, p in guesses)
            yield [name, self.classes[label], *(cell for pair in pairs for cell in pair)]


_CLASS_COLUMNS = (
    "class", "images", "correct", "accuracy", "predicted", "precision", "mistaken_for",
)  # fmt: skip


def _class_row(row: ClassAccuracy) -> list[object]:
    return [
        row.name, row.images, row.correct, row.accuracy, row.predicted, row.precision,
        row.mistaken_for,
    ]  # fmt: skip


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
