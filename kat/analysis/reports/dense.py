"""The section of a detector's or a segmentation model's predictions."""

from __future__ import annotations

from kat.analysis.figures.interactive.dense import ap_by_overlap
from kat.analysis.figures.predictions.dense import draw_by_class, draw_pairs
from kat.analysis.inspect.dense import DenseFindings
from kat.analysis.learning_curves import METRICS
from kat.analysis.reports.page import Report, Table
from kat.text import counted
from kat.training.tasks.detection import BOX_AP_BY_OVERLAP

_DRAWN = 40
"""Classes that are drawn at most, those with the lowest metric."""


def add_dense_findings(report: Report, found: DenseFindings) -> None:
    """Adds predictions beside the ground truth, and the metrics of each class."""
    evaluation = found.evaluation
    report.text(
        f"{counted(evaluation.images, 'validation image')}: {'; '.join(evaluation.lines)}."
        " --images N takes more of them, and 'kat eval RUN' the whole split."
    )
    if found.pairs:
        report.figure(draw_pairs(found.pairs), "Validation images, each above its predictions.")
    columns, rows = evaluation.per_class
    metrics = [METRICS[name].label if name in METRICS else "IoU" for name in columns[1:]]
    lowest = sorted((row for row in rows if row[1] >= 0), key=lambda row: row[1])[:_DRAWN]
    values = {metric: [row[i] for row in lowest] for i, metric in enumerate(metrics, start=1)}
    if lowest:
        report.figure(
            draw_by_class([row[0] for row in lowest], values), f"{metrics[0]} of each class."
        )
    report.numbers(
        Table(("class", *metrics), [[row[0], *(f"{v:.2f}" for v in row[1:])] for row in rows])
    )
    curves = evaluation.tables.get(BOX_AP_BY_OVERLAP)
    if curves is not None and curves.rows:
        overlaps = [float(name) for name in curves.columns[1:]]
        caption = "Box AP by the least overlap (IoU) that counts as a hit, one line per class."
        lines = sorted(curves.rows, key=lambda row: row[1])[:_DRAWN]
        report.chart(ap_by_overlap(overlaps, lines), caption)
