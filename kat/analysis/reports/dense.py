"""The files and the printed summary of a detector's or a segmentation model's evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.analysis.reports.evaluation import finite, write_confusion, write_metrics
from kat.files import write_text
from kat.tables import write_table
from kat.training import DenseEvaluation

_SHOWN = 3
"""How many of the worst and of the best classes are printed."""
_AREAS = ("small", "medium", "large")


class DenseReport:
    """What follows from an evaluation.

    Args:
        evaluation: of a detector or a segmentation model.
    """

    def __init__(self, evaluation: DenseEvaluation) -> None:
        self.evaluation = evaluation

    def to_dict(self) -> dict[str, Any]:
        """The metrics in per cent, also by class; None where nothing counts towards one."""
        found = self.evaluation
        return {
            **{name: finite(value) for name, value in found.metrics.items()},
            "images": found.images,
            "skipped": len(found.unreadable),
            "images_per_second": found.images / found.seconds,
            "per_class": [
                {"class": name, **{key: finite(value) for key, value in row.items()}}
                for name, row in found.by_class.items()
            ],
            "skipped_files": found.unreadable,
            "notes": found.notes,
        }

    def lines(self) -> list[str]:
        """The summary that is printed: metrics, worst and best classes, images and speed."""
        found, metrics = self.evaluation, self.evaluation.metrics
        kinds = [kind for kind in ("box", "mask") if f"{kind}_ap" in metrics]
        lines = [_average_precision(kind, metrics) for kind in kinds] or [_overlap(metrics)]
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
            f"{found.images} images, {speed:.3g} images/s; {len(found.unreadable)} files skipped"
        )
        return lines

    def write(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Writes metrics.json, per_class.csv, and the results or the confusion, if any.

        The results of detection are results_bbox.json and results_segm.json, in COCO's format. The
        confusion of classes in segmentation is confusion.csv, .png and .svg.

        Args:
            folder: created if it is missing; files of these names in it are replaced.
            metrics: the contents of metrics.json.
        """
        found = self.evaluation
        write_metrics(metrics, folder)
        columns = ["class", *next(iter(found.by_class.values()), {})]
        rows = [[name, *map(finite, row.values())] for name, row in found.by_class.items()]
        write_table(folder / "per_class.csv", columns, rows)
        for kind, results in found.results.items():
            write_text(folder / f"results_{kind}.json", json.dumps(results))
        if found.confusion is not None:
            write_confusion(found.confusion.numpy(), found.classes, folder)


def _average_precision(kind: str, metrics: Mapping[str, float]) -> str:
    by_area = ", ".join(f"{area} {_text(metrics[f'{kind}_ap_{area}'])}" for area in _AREAS)
    whole = ", ".join(
        f"{label} {_text(metrics[f'{kind}_{name}'])}"
        for name, label in (("ap50", "AP50"), ("ap75", "AP75"), ("ar", "AR"))
    )
    return f"{kind} AP {_text(metrics[f'{kind}_ap'])}, {whole}; {by_area}"


def _overlap(metrics: Mapping[str, float]) -> str:
    return (
        f"mIoU {_text(metrics['miou'])}, pixel accuracy {_text(metrics['pixel_accuracy'])}, class"
        f" accuracy {_text(metrics['class_accuracy'])}, loss {metrics['loss']:.4f}"
    )


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
