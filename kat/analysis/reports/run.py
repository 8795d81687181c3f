"""The page of one run: results, learning curves, and what its rationals have learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.analysis.figures.interactive.activations import activation, drawn_groups, evolution
from kat.analysis.figures.interactive.stability import by_step, gains
from kat.analysis.inspect.activations import Activation
from kat.analysis.inspect.dense import DenseFindings
from kat.analysis.inspect.mistakes import ClassFindings
from kat.analysis.inspect.stability import (
    Verdict,
    layer_by_step,
    layers_of,
    steps_of,
    thinned,
)
from kat.analysis.inspect.symbolic import Reading, median, read_symbols
from kat.analysis.learning_curves import HEADLINES, METRICS, History
from kat.analysis.reports.classification import add_class_findings
from kat.analysis.reports.dense import add_dense_findings
from kat.analysis.reports.findings import RunFindings
from kat.analysis.reports.page import Chart, Report, Table
from kat.analysis.reports.sections import add_learning_curves
from kat.nn.monitoring.stability import Row
from kat.settings import flat
from kat.text import duration, scaled


def write_run_report(run: RunFindings, path: Path) -> None:
    """Writes the page; in place of what is missing it says how to get it.

    Args:
        run: what is known.
        path: the path of the file.
    """
    report = Report(f"{run.record.architecture} on {run.data}")
    report.facts(_facts(run))
    if run.failure is not None:
        report.text(f"The run was stopped: {run.failure}")
    settings = ", ".join(f"{name} {value}" for name, value in flat(run.settings).items())
    report.text(f"{run.name}. Settings other than the default: {settings or 'none'}.")
    report.heading("Learning curves")
    if run.history:
        add_learning_curves(report, {run.name: [run.history]})
    else:
        report.text("The run has not completed an epoch yet.")
    if run.predictions:
        report.heading("Predictions")
        _add_predictions(report, run.predictions)
    if run.activations:
        _add_activations(report, run)
        _add_symbols(report, run.activations)
        _add_evolution(report, run)
        _add_stability(report, run)
    _add_attention(report, run)
    report.write(path)


def _add_predictions(report: Report, found: ClassFindings | DenseFindings | str) -> None:
    if isinstance(found, ClassFindings):
        add_class_findings(report, found)
    elif isinstance(found, DenseFindings):
        add_dense_findings(report, found)
    else:
        report.text(found)


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
    charts = [Chart(activation(layer), _caption(layer)) for layer in run.activations]
    report.charts(charts, small=True)


def _caption(layer: Activation) -> str:
    shown = len(drawn_groups(layer.num_groups))
    some = f", {shown} of {layer.num_groups} groups" if shown < layer.num_groups else ""
    return f"{layer.name}{some}"


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
    listed = {layer.name: drawn_groups(layer.num_groups) for layer in activations}
    rows = [_reading(reading) for reading in readings if reading.group in listed[reading.layer]]
    report.numbers(Table(columns, rows))


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


def _reading(reading: Reading) -> tuple[str, ...]:
    return (
        reading.layer,
        f"{reading.group}",
        reading.nearest,
        reading.formula,
        f"{reading.distance:.4f}",
        reading.second,
        f"{reading.second_distance:.4f}",
        f"{reading.from_start:.4f}",
    )


def _add_evolution(report: Report, run: RunFindings) -> None:
    report.heading("Evolution")
    if not run.coefficients:
        report.text(
            "The run's folder has no coefficients.csv, which 'kat train' writes while it trains."
        )
        return
    points = {layer.name: layer.x for layer in run.activations}
    report.chart(
        evolution(run.coefficients, points),
        "The functions of a layer (menu) at a training step (slider); dashed: their start.",
    )


def _add_stability(report: Report, run: RunFindings) -> None:
    report.heading("Stability")
    if not run.stability:
        report.text("The run was not monitored; 'kat train --monitor' records its layers.")
        return
    for line in Verdict.of(run.stability).lines:
        report.text(line)
    rows = thinned(run.stability)
    report.chart(
        gains(steps_of(rows), layers_of(rows), layer_by_step(rows, "gain", log=True)),
        "Gain by layer and step, E[y^2] / E[x^2]; 1 is preserved.",
    )
    report.charts(
        [
            Chart(
                _lines(rows, "drift"),
                "Drift of the coefficients, |c - c_0| / |c_0|, one line per layer.",
            ),
            Chart(
                _lines(rows, "outside"),
                "Share of the inputs outside the fit interval, one line per layer.",
            ),
        ]
    )
    report.text("'kat stability' prints a table of the layers; stability.csv has every quantity.")


def _lines(rows: Sequence[Row], name: str) -> Any:
    steps, values = steps_of(rows), layer_by_step(rows, name, log=False)
    lines = {layer: (steps, y) for layer, y in zip(layers_of(rows), values, strict=True)}
    return by_step(lines, name)


def _add_attention(report: Report, run: RunFindings) -> None:
    report.heading("Attention")
    if isinstance(run.attention, str):
        report.text(run.attention)
        return
    report.figure(
        run.attention,
        "Validation images as the model sees them, with attention rollout and the attention of each"
        " block, averaged over its heads.",
    )
