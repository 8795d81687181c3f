"""The page of one run: results, learning curves, and what its rationals have learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from kat.analysis.figures.activations import draw_activations, draw_evolution
from kat.analysis.figures.predictions import (
    draw_by_class,
    draw_confusion,
    draw_pairs,
    draw_photographs,
)
from kat.analysis.figures.stability import draw_gains
from kat.analysis.inspect.activations import Activation, spread
from kat.analysis.inspect.predictions import ClassFindings, DenseFindings
from kat.analysis.inspect.stability import TABLE, Verdict, table
from kat.analysis.inspect.symbolic import Reading, median, read_symbols
from kat.analysis.reports.findings import RunFindings
from kat.analysis.reports.grids import add_learning_curves
from kat.analysis.reports.page import Report
from kat.analysis.runs import HEADLINES, METRICS, History
from kat.settings import flat
from kat.text import counted, duration, scaled
from kat.training.tasks.classification.metrics import most_confused
from kat.training.tasks.classification.report import interval

_SEEN = "--images sets how many images are used; 'kat eval RUN --out FOLDER' uses the whole split."
_LISTED = 20
"""Classes with the lowest recall that are listed openly."""
_DRAWN = 40
"""Classes that are drawn at most, those with the lowest metric."""
_GROUPS = 16
"""Groups of a layer whose readings are listed at most."""


def write_run_report(run: RunFindings, path: Path) -> None:
    """Write the page; in place of what is missing it says how to get it.

    Args:
        run: what is known.
        path: the path of the file.
    """
    found = run.predictions
    lead = "" if isinstance(found, str) else _lead(found)
    report = Report(f"{run.record.architecture} on {run.data}", lead)
    report.facts(_facts(run))
    if run.failure is not None:
        report.text(f"The run was stopped: {run.failure}")
    settings = list(flat(run.settings).items())
    report.numbers(("setting", "value"), [("out", run.name), *settings], "Settings of the run")
    report.heading("Learning curves")
    if run.history:
        add_learning_curves(report, {run.name: [run.history]})
    else:
        report.text("The run has not completed an epoch yet.")
    if found:
        report.heading("Predictions")
    if isinstance(found, ClassFindings):
        _add_class_findings(report, found)
    elif isinstance(found, DenseFindings):
        _add_dense_findings(report, found)
    elif found:
        report.text(found)
    if run.activations:
        _add_activations(report, run)
        _add_symbols(report, run.activations)
        _add_evolution(report, run)
        _add_stability(report, run)
    _add_attention(report, run)
    report.write(path)


def _lead(found: ClassFindings | DenseFindings) -> str:
    """Return the result as a sentence, and where the model errs most."""
    if isinstance(found, ClassFindings):
        right, either_way = int(found.confusion.trace()), found.confusion + found.confusion.T
        images = f"{interval(right, found.images)} of {counted(found.images, 'validation image')}"
        lead = f"{100 * right / found.images:.0f} %{images} are classified correctly"
        # Two classes have only one pair.
        for pair in most_confused(np.triu(either_way), found.classes, len(found.classes) > 2):
            lead += f"; {pair.true} and {pair.predicted} are confused most"
        return f"{lead}."
    measured, images = found.evaluation, counted(found.evaluation.images, "validation image")
    name = next(name for name in HEADLINES if name in measured.metrics)
    lead = f"The {METRICS[name].label} is {measured.metrics[name]:.1f} % on {images}"
    known = [row for row in measured.per_class.rows if row[1] >= 0]  # not NaN or -1
    for worst in sorted(known, key=lambda row: row[1])[:1]:
        tied = sum(row[1] == worst[1] for row in known)
        who = f"{worst[0]} is the weakest class" if tied == 1 else f"{tied} classes are the weakest"
        lead += f"; {who}, with {worst[1]:.1f} %"
    return f"{lead}."


def _add_class_findings(report: Report, found: ClassFindings) -> None:
    """Add photographs, the confusion matrix, and the scores of each class."""
    report.text(_SEEN)
    report.figure(
        draw_photographs(found.shown, found.titles),
        "Images as the model sees them: mistakes, the highest loss first, and right predictions.",
    )
    report.figure(
        draw_confusion(found.confusion, found.classes),
        "Confusion: the share of each true class (row) that is predicted as each class (column).",
    )
    seen = [row for row in found.by_class if row.images]
    ranked = sorted(seen, key=lambda row: row.correct / row.images)
    columns = (
        "class", "images", "recall (%)", "precision (%)", "F1 (%)", "most mistaken for",
    )  # fmt: skip
    rows = [
        (
            row.name,
            f"{row.images}",
            f"{row.recall:.1f}",
            "-" if row.precision is None else f"{row.precision:.1f}",
            f"{row.f1:.1f}",
            row.mistaken_for or "-",
        )
        for row in ranked
    ]
    report.table(columns, rows[:_LISTED])
    if len(rows) > _LISTED:
        report.numbers(columns, rows[_LISTED:])


def _add_dense_findings(report: Report, found: DenseFindings) -> None:
    """Add predictions beside the ground truth, and the metrics of each class."""
    evaluation = found.evaluation
    report.text(f"{'; '.join(evaluation.lines)}. {_SEEN}")
    if found.pairs:
        report.figure(
            draw_pairs(found.pairs), "Validation images: the ground truth, and the predictions."
        )
    columns, rows = evaluation.per_class
    metrics = [METRICS[name].label if name in METRICS else "IoU" for name in columns[1:]]
    lowest = sorted((row for row in rows if row[1] >= 0), key=lambda row: row[1])[:_DRAWN]
    values = {metric: [row[i] for row in lowest] for i, metric in enumerate(metrics, start=1)}
    if lowest:
        report.figure(
            draw_by_class([row[0] for row in lowest], values), "The metrics of each class."
        )
    numbers = [[row[0], *(f"{v:.2f}" for v in row[1:])] for row in rows]
    report.numbers(("class", *metrics), numbers)


def _facts(run: RunFindings) -> list[tuple[str, str]]:
    costs = [
        ("Parameters", f"{run.cost.parameters:,}"),
        ("FLOPs per image", scaled(run.cost.flops)),
    ]
    summary = run.summary
    if summary is None:
        return [*_best(run.history), *costs, ("Epochs so far", f"{len(run.history)}")]
    known = [name for name in METRICS if isinstance(summary.get(name), int | float)]
    metrics = [METRICS[name] for name in known]
    return [
        *((f"Validation {m.label}", f"{summary[m.name]:{m.format}} %") for m in metrics),
        *costs,
        ("Best epoch", f"{summary['best_epoch']} of {summary['epochs']}"),
        ("Training time", duration(summary["seconds"])),
        ("Images per second", f"{summary['images_per_second']:,.0f}"),
        ("Peak memory", _memory(summary)),
    ]


def _memory(summary: Mapping[str, Any]) -> str:
    workers = summary["worker_memory_bytes"]
    beside = f", and {scaled(workers, 'B')} in its workers" if workers else ""
    return f"{scaled(summary['memory_bytes'], 'B')}{beside}"


def _best(history: History) -> list[tuple[str, str]]:
    best = next((row for row in history if row.get("best")), {})
    return [
        (
            f"Best {METRICS[name].label} so far",
            f"{best[name]:{METRICS[name].format}} % (epoch {best['epoch']:.0f})",
        )
        for name in HEADLINES
        if name in best
    ]


def _add_activations(report: Report, run: RunFindings) -> None:
    report.heading("Learned activations")
    report.text(
        "Each color is the function F of one group of channels, with the weights that the run"
        f" keeps; dashed: its start. {run.seen}"
    )
    report.figure(
        draw_activations(run.activations), "The functions of each layer, one line per group."
    )


def _add_symbols(report: Report, activations: Sequence[Activation]) -> None:
    report.heading("Symbolic reading")
    readings = [reading for layer in activations for reading in read_symbols(layer)]
    report.text(
        "The nearest known function, up to affine maps before and after it, over the inputs seen."
        " Distance 0 is equality, 1 is no better than a constant; the last column is the distance"
        " from the start of the training, on the same scale."
    )
    report.table(
        ("layer", "groups", "nearest (in how many groups)", "median distance", "from the start"),
        [_summary(layer.name, readings) for layer in activations],
    )
    columns = (
        "layer", "group", "nearest", "F(x) is about", "distance", "second", "its distance",
        "from the start",
    )  # fmt: skip
    listed = {layer.name: spread(layer.num_groups, _GROUPS) for layer in activations}
    rows = [_reading(reading) for reading in readings if reading.group in listed[reading.layer]]
    report.numbers(columns, rows)


def _summary(layer: str, readings: Sequence[Reading]) -> tuple[str, ...]:
    own = [reading for reading in readings if reading.layer == layer]
    names = [reading.nearest for reading in own]
    ranked = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    return (
        layer,
        f"{len(own)}",
        ", ".join(f"{name} ({names.count(name)})" for name in ranked),
        f"{median(reading.distance for reading in own):.3f}",
        f"{median(reading.from_start for reading in own):.3f}",
    )


def _reading(reading: Reading) -> list[str]:
    return [f"{v:.4f}" if isinstance(v, float) else str(v) for v in astuple(reading)]


def _add_evolution(report: Report, run: RunFindings) -> None:
    report.heading("Evolution")
    if not run.coefficients:
        report.text(
            "The run's folder has no coefficients.csv, which 'kat train' writes while it trains."
        )
        return
    report.figure(
        draw_evolution(run.coefficients),
        "The functions of each layer (row) at steps of the training (column).",
    )


def _add_stability(report: Report, run: RunFindings) -> None:
    report.heading("Stability")
    if not run.stability:
        report.text("The run was not monitored; 'kat train --monitor' records its layers.")
        return
    for line in Verdict.of(run.stability).lines:
        report.text(line)
    gains = draw_gains({"": run.stability})
    report.figure(gains, "Gain by layer and step, E[y^2] / E[x^2]; 1 is preserved.")
    lines, bad = table(run.stability)
    report.table(TABLE, lines, bad)


def _add_attention(report: Report, run: RunFindings) -> None:
    report.heading("Attention")
    if isinstance(run.attention, str):
        report.text(run.attention)
        return
    report.figure(
        run.attention,
        "Validation images as the model sees them, with attention rollout and the attention of each"
        " block, averaged over its heads; 2x is twice uniform attention.",
    )
