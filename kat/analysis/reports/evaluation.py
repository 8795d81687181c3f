"""The folder of an evaluation: its metrics, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.analysis.figures.base import save_figure
from kat.analysis.figures.predictions import draw_confusion, draw_reliability
from kat.files import write_text
from kat.tables import write_table
from kat.training import Evaluation


def write_evaluation(found: Evaluation, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json, per_class.csv, skipped.csv, and what else the task gives.

    Of a classifier that is predictions.csv, the confusion of classes (confusion.csv, .png, .svg)
    and the reliability diagram (reliability.png, .svg); of a detector results_bbox.json and
    results_segm.json, as COCO's evaluators take them; of a segmentation model the confusion.

    Args:
        found: the evaluation.
        folder: is made if it is missing; files of these names in it are replaced.
        metrics: the contents of metrics.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    skipped = ("file", "reason"), sorted(found.skipped.items())
    tables = {"per_class": found.per_class, "skipped": skipped, **found.tables}
    for name, (columns, rows) in tables.items():
        write_table(folder / f"{name}.csv", columns, rows)
    for name, content in found.documents.items():
        write_text(folder / f"{name}.json", json.dumps(content))
    figures = {}
    if found.confusion is not None:
        matrix = zip(found.classes, found.confusion.tolist(), strict=True)
        rows = [[name, *counts] for name, counts in matrix]
        write_table(folder / "confusion.csv", ["true \\ predicted", *found.classes], rows)
        figures["confusion"] = draw_confusion(found.confusion, found.classes)
    if found.calibration is not None:
        figures["reliability"] = draw_reliability(found.calibration)
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            save_figure(figure, folder / f"{name}.{ending}")
