"""The section of a classifier's predictions."""

from __future__ import annotations

from kat.analysis.figures.predictions.classification import draw_confusion, draw_mistakes
from kat.analysis.inspect.mistakes import ClassFindings
from kat.analysis.reports.page import Report, Table
from kat.text import counted

_LISTED = 20
"""Classes with the lowest accuracy that are listed openly."""
_COLUMNS = ("class", "accuracy (%)", "images", "precision (%)", "most mistaken for")


def add_class_findings(report: Report, found: ClassFindings) -> None:
    """Adds the confusion matrix, the accuracy of each class, and the worst mistakes."""
    wrong = found.images - int(found.confusion.trace())
    report.text(
        f"{wrong} of {counted(found.images, 'validation image')} are predicted wrongly. --images N"
        " takes more of them, and 'kat eval RUN --out FOLDER' the whole split."
    )
    report.figure(
        draw_confusion(found.confusion, found.classes),
        "Confusion: the share of each true class (row) that is predicted as each class (column).",
    )
    seen = [row for row in found.by_class if row.images]
    ranked = sorted(seen, key=lambda row: row.correct / row.images)
    rows = [
        (
            row.name,
            f"{row.accuracy:.1f}",
            f"{row.images}",
            "-" if row.precision is None else f"{row.precision:.1f}",
            row.mistaken_for or "-",
        )
        for row in ranked
    ]
    report.table(_COLUMNS, rows[:_LISTED])
    if len(rows) > _LISTED:
        report.numbers(Table(_COLUMNS, rows[_LISTED:]))
    if len(found.mistakes):
        report.figure(
            draw_mistakes(found.mistakes, found.titles),
            "The worst mistakes: the images with the highest loss, as the model sees them.",
        )
