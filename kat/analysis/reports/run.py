"""The page of one run: results, learning curves, and what its rationals have learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from kat.analysis.figures.activations import draw_activations, draw_evolution
from kat.analysis.figures.predictions import (
    draw_by_class,
    draw_confusion,
    draw_pairs,
    draw_photographs,
)
from kat.analysis.figures.stability import draw_gains
from kat.analysis.inspect.activations import Activation
from kat.analysis.inspect.predictions import ClassFindings, DenseFindings
from kat.analysis.inspect.stability import TABLE, Verdict, table
from kat.analysis.inspect.symbolic import Reading, median, read_symbols
from kat.analysis.reports.findings import RunFindings
from kat.analysis.reports.grids import add_learning_curves
from kat.analysis.reports.page import Report
from kat.analysis.runs import HEADLINES, METRICS
from kat.nn.stability import Row
from kat.settings import flat
from kat.text import counted, duration, scaled
from kat.training.tasks.classification.metrics import most_confused
from kat.training.tasks.classification.report import interval
from kat.training.tasks.classification.temperature import described

_OVERFIT = 1.05
"""A model overfits if its validation loss ends at more than so many times the lowest."""
_LISTED = 20
"""Classes with the lowest recall that are listed openly."""
_DRAWN = 40
"""Classes that are drawn at most, those with the lowest metric."""
_GROUPS = 16
"""The number of groups of a layer whose readings are listed."""


def write_run_report(run: RunFindings, path: Path) -> None:
    """Write the page; it has a section for each part that is known.

    Args:
        run: what is known.
        path: the path of the file.
    """
    lead = f"The run was stopped: {run.failure} " if run.failure else ""
    report = Report(f"{run.record.architecture} on {run.data}", lead + _course(run))
    report.facts(_facts(run))
    settings = [(name, str(value)) for name, value in flat(run.settings).items()]
    report.numbers(("setting", "value"), [("out", run.name), *settings], "Settings of the run")
    if run.history:
        report.heading("Learning curves")
        add_learning_curves(report, {run.name: [run.history]})
    if run.predictions:
        report.heading("Predictions")
    if isinstance(run.predictions, ClassFindings):
        _add_class_findings(report, run.predictions, run.record.calibration)
    elif isinstance(run.predictions, DenseFindings):
        _add_dense_findings(report, run.predictions)
    elif run.predictions:
        report.text(run.predictions)
    if run.activations:
        _add_activations(report, run)
        _add_symbols(report, run.activations)
    if run.coefficients:
        report.heading("Evolution")
        report.figure(
            draw_evolution(run.coefficients),
            "The functions of each layer (row) at steps of the training (column).",
        )
    if run.stability:
        _add_stability(report, run.stability)
    if run.attention:
        report.heading("Attention")
        report.figure(
            run.attention,
            "Validation images as the model sees them, with attention rollout and the attention of"
            " each block, averaged over its heads; 2x is twice uniform attention.",
        )
    report.write(path)


def _course(run: RunFindings) -> str:
    """Return the course of the training: the best epoch, the last, the losses, an overfit."""
    if not run.history:
        return "The run has not completed an epoch yet."
    last = run.history[-1]
    best = next((row for row in run.history if row.get("best")), last)
    metric = METRICS[next(name for name in HEADLINES if name in best)]
    text = (
        f"The best {metric.label} is {best[metric.name]:{metric.format}} %, in epoch"
        f" {best['epoch']} of {last['epoch']}"
    )
    text += "." if best is last else f"; the last has {last[metric.name]:{metric.format}} %."
    if "val_loss" not in last or len(run.history) == 1:
        return text
    lowest = min(run.history, key=lambda row: row["val_loss"])
    rises = last["val_loss"] > _OVERFIT * lowest["val_loss"]
    overfits = rises and last["train_loss"] < lowest["train_loss"]
    start = lowest if overfits else run.history[0]
    return (
        f"{text} {'The model overfits: from' if overfits else 'From'} epoch {start['epoch']} to"
        f" {last['epoch']}, the training loss goes from {start['train_loss']:.3f} to"
        f" {last['train_loss']:.3f}, and the validation loss from {start['val_loss']:.3f} to"
        f" {last['val_loss']:.3f}."
    )


def _add_class_findings(
    report: Report, found: ClassFindings, calibrated: Mapping[str, float] | None
) -> None:
    """Add the share of correct predictions, the recall of each class, photographs, confusion."""
    accuracy = 100 * int(found.confusion.trace()) / found.images
    either_way = found.confusion + found.confusion.T
    images = f"{interval(accuracy, found.images)} of {counted(found.images, 'validation image')}"
    text = f"{accuracy:.0f} %{images} are classified correctly"
    # Two classes have only one pair.
    for pair in most_confused(np.triu(either_way), found.classes, len(found.classes) > 2):
        text += f"; {pair.true} and {pair.predicted} are confused most"
    report.text(f"{text}.")
    if calibrated:
        report.text(f"The model is {described(calibrated)}.")
    seen = [row for row in found.by_class if row.images]
    ranked = sorted(seen, key=lambda row: row.correct / row.images)
    columns = (
        "class", "images", "recall (%)", "precision (%)", "F1 (%)", "most mistaken for",
    )  # fmt: skip
    rows = []
    for row in ranked:
        precision = "-" if row.precision is None else f"{row.precision:.1f}"
        recall, f1, mistaken_for = f"{row.recall:.1f}", f"{row.f1:.1f}", row.mistaken_for or "-"
        rows.append((row.name, row.images, recall, precision, f1, mistaken_for))
    report.table(columns, rows[:_LISTED])
    if len(rows) > _LISTED:
        report.numbers(columns, rows[_LISTED:])
    report.figure(
        draw_photographs(found.shown, found.titles),
        "Images as the model sees them: mistakes, the highest loss first, and right predictions.",
    )
    report.figure(
        draw_confusion(found.confusion, found.classes),
        "Confusion: the share of each true class (row) that is predicted as each class (column).",
    )


def _add_dense_findings(report: Report, found: DenseFindings) -> None:
    """Add predictions beside the ground truth, and the metrics of each class."""
    evaluation = found.evaluation
    report.text(f"{'; '.join(evaluation.lines)}.")
    if found.pairs:
        report.figure(
            draw_pairs(found.pairs), "Validation images: the ground truth, and the predictions."
        )
    columns, rows = evaluation.per_class
    labels = {name: metric.label for name, metric in METRICS.items()}
    metrics = [labels.get(name, "IoU") for name in columns[1:]]
    lowest = sorted((row for row in rows if row[1] >= 0), key=lambda row: row[1])[:_DRAWN]
    if lowest:
        report.figure(draw_by_class(lowest, metrics), "The metrics of each class.")
    report.numbers(("class", *metrics), rows)


def _facts(run: RunFindings) -> list[tuple[str, str]]:
    summary = run.summary or {}
    facts = []
    for name, metric in METRICS.items():
        if summary.get(name) is not None:
            known = f"{summary[name]:{metric.format}} %"
            if name == "top1" and "validation_images" in summary:
                known += interval(summary[name], summary["validation_images"])
            facts.append((f"Validation {metric.label}", known))
    facts.append(("Parameters", f"{run.cost.parameters:,}"))
    facts.append(("FLOPs per image", scaled(run.cost.flops)))
    if not summary:
        return [*facts, ("Epochs so far", f"{len(run.history)}")]
    facts.append(("Best epoch", f"{summary['best_epoch']} of {summary['epochs']}"))
    facts.append(("Training time", duration(summary["seconds"])))
    facts.append(("Images per second", f"{summary['images_per_second']:,.0f}"))
    return [*facts, ("Peak memory", scaled(summary["memory_bytes"], "B"))]


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
    report.text(
        "The nearest known function, up to affine maps before and after it, over the inputs seen."
        " Distance 0 is equality, 1 is no better than a constant; the last column is the distance"
        " from the start of the training, on the same scale."
    )
    summaries: list[tuple[object, ...]] = []
    listed: list[tuple[object, ...]] = []
    for layer in activations:
        readings = read_symbols(layer)
        summaries.append(_summary(layer, readings))
        listed += map(astuple, readings[:_GROUPS])
    report.table(
        ("layer", "groups", "nearest (in how many groups)", "median distance", "from the start"),
        summaries,
    )
    columns = (
        "layer", "group", "nearest", "F(x) is about", "distance", "second", "its distance",
        "from the start",
    )  # fmt: skip
    report.numbers(columns, listed)


def _summary(layer: Activation, readings: Sequence[Reading]) -> tuple[object, ...]:
    ranked = Counter(reading.nearest for reading in readings).most_common()
    nearest = ", ".join(f"{name} ({count})" for name, count in ranked)
    distance = median(reading.distance for reading in readings)
    from_start = median(reading.from_start for reading in readings)
    return layer.name, layer.num_groups, nearest, f"{distance:.3f}", f"{from_start:.3f}"


def _add_stability(report: Report, rows: Sequence[Row]) -> None:
    report.heading("Stability")
    for line in Verdict.of(rows).lines:
        report.text(line)
    gains = draw_gains({"": rows})
    report.figure(gains, "Gain by layer and step, E[y^2] / E[x^2]; 1 is preserved.")
    lines, bad = table(rows)
    report.table(TABLE, lines, bad)
