"""What is written and printed of a detector's or a segmentation model's evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from kat.analysis.figures.classification import draw_confusion
from kat.analysis.figures.plots import save_figure
from kat.files import write_text
from kat.tables import write_table

_SHOWN = 3
"""How many of the worst and of the best classes are printed."""
_AREAS = ("small", "medium", "large")


class Evaluated(Protocol):
    """What of an evaluation is needed; see ``kat.training.DenseEvaluation``, which has it."""

    @property
    def classes(self) -> list[str]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def by_class(self) -> dict[str, dict[str, float]]: ...
    @property
    def images(self) -> int: ...
    @property
    def unreadable(self) -> dict[str, str]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def results(self) -> dict[str, list[dict[str, Any]]]: ...
    @property
    def confusion(self) -> Tensor | None: ...


class DenseReport:
    """Everything that follows from an evaluation.

    Args:
        evaluation: of a detector or a segmentation model.
    """

    def __init__(self, evaluation: Evaluated) -> None:
        self.evaluation = evaluation

    def to_dict(self) -> dict[str, Any]:
        """The figures in per cent, also by class; None where nothing counts to one."""
        found = self.evaluation
        return {
            **{name: _number(value) for name, value in found.metrics.items()},
            "images": found.images,
            "skipped": len(found.unreadable),
            "images_per_second": found.images / found.seconds,
            "per_class": [
                {"class": name, **{key: _number(value) for key, value in row.items()}}
                for name, row in found.by_class.items()
            ],
            "skipped_files": found.unreadable,
            "notes": found.notes,
        }

    def lines(self) -> list[str]:
        """What people want to know first, a line each."""
        found, figures = self.evaluation, self.evaluation.metrics
        kinds = [kind for kind in ("box", "mask") if f"{kind}_ap" in figures]
        lines = [_average_precision(kind, figures) for kind in kinds] or [_overlap(figures)]
        ranked = sorted(
            (value, name)
            for name, row in found.by_class.items()
            if not math.isnan(value := next(iter(row.values())))
        )
        for which, chosen in (("worst", ranked[:_SHOWN]), ("best", ranked[_SHOWN:][::-1][:_SHOWN])):
            if chosen:
                listed = ", ".join(f"{name} {value:.1f}" for value, name in chosen)
                lines.append(f"{which} classes: {listed}")
        speed = found.images / found.seconds
        lines.append(
            f"{found.images} images, {speed:.3g} a second; {len(found.unreadable)} files skipped"
        )
        return lines

    def write(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Writes metrics.json, per_class.csv, and what belongs to the task.

        Of detection results_bbox.json and results_segm.json, as COCO's evaluators take them; of
        segmentation the confusion of classes, confusion.csv, .png and .svg.

        Args:
            folder: made if it is missing; files of these names in it are replaced.
            metrics: the contents of metrics.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = self.evaluation
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        columns = ["class", *next(iter(found.by_class.values()), {})]
        rows = [[name, *map(_number, row.values())] for name, row in found.by_class.items()]
        write_table(folder / "per_class.csv", columns, rows)
        for kind, results in found.results.items():
            write_text(folder / f"results_{kind}.json", json.dumps(results))
        if found.confusion is not None:
            _write_confusion(found.confusion, found.classes, folder)


def _write_confusion(confusion: Tensor, classes: Sequence[str], folder: Path) -> None:
    rows = ([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    write_table(folder / "confusion.csv", ["true \\ predicted", *classes], rows)
    for ending in ("png", "svg"):
        figure = draw_confusion(confusion.numpy(), list(classes))
        save_figure(figure, folder / f"confusion.{ending}")


def _average_precision(kind: str, figures: Mapping[str, float]) -> str:
    by_area = ", ".join(f"{area} {_text(figures[f'{kind}_ap_{area}'])}" for area in _AREAS)
    whole = ", ".join(
        f"{label} {_text(figures[f'{kind}_{name}'])}"
        for name, label in (("ap50", "AP50"), ("ap75", "AP75"), ("ar", "AR"))
    )
    return f"{kind} AP {_text(figures[f'{kind}_ap'])}, {whole}; {by_area}"


def _overlap(figures: Mapping[str, float]) -> str:
    return (
        f"mIoU {_text(figures['miou'])}, pixel accuracy {_text(figures['pixel_accuracy'])}, class"
        f" accuracy {_text(figures['class_accuracy'])}, loss {figures['loss']:.4f}"
    )


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
