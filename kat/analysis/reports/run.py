"""The page of one run: what it gave, how it learned, and what its rationals have become."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat.analysis.figures import charts
from kat.analysis.inspect.activations import Activation
from kat.analysis.inspect.symbolic import Reading, median, read_symbols
from kat.analysis.learning_curves import HEADLINES, SCORES, History
from kat.analysis.reports.findings import RunFindings
from kat.analysis.reports.page import Chart, Report, Table
from kat.analysis.reports.sections import add_learning_curves, flat
from kat.analysis.reports.stability import Verdict, layer_by_step, layers_of, steps_of, thinned
from kat.nn.stability import Row
from kat.text import duration, scaled


def write_run_report(run: RunFindings, path: Path) -> None:
    """Writes the page; what is not at hand is a sentence that says how to get it.

    Args:
        run: what is known.
        path: where to write.
    """
    report = Report(f"{run.record.architecture} on {run.data}")
    report.facts(_facts(run))
    if run.failure is not None:
        report.text(f"The run was stopped: {run.failure}")
    settings = ", ".join(f"{name} {value}" for name, value in flat(run.settings).items())
    report.text(f"{run.name}. Settings that are not the default: {settings or 'none'}.")
    report.heading("Learning curves")
    if run.history:
        add_learning_curves(report, {run.name: [run.history]})
    else:
        report.text("No epoch is behind this run yet.")
    if run.activations:
        _add_activations(report, run)
        _add_symbols(report, run.activations)
        _add_evolution(report, run)
        _add_stability(report, run)
    _add_attention(report, run)
    report.write(path)


def _facts(run: RunFindings) -> list[tuple[str, str]]:
    costs = [
        ("Parameters", f"{run.cost.parameters:,}"),
        ("FLOPs an image", scaled(run.cost.flops)),
    ]
    if run.summary is None:
        return [*_best(run.history), *costs, ("Epochs so far", f"{len(run.history)}")]
    summary = run.summary
    known = [name for name in SCORES if summary.get(name) is not None]
    scores = [(SCORES[name], summary[name]) for name in known]
    return [
        *((f"Validation {label}", f"{value:.2f} %") for label, value in scores),
        *costs,
        ("Epochs", f"{summary['epochs']}"),
        ("Training time", duration(summary["seconds"])),
        ("Images a second", f"{summary['images_per_second']:,.0f}"),
        ("Peak memory", scaled(summary["memory_bytes"], "B")),
    ]


def _best(history: History) -> list[tuple[str, str]]:
    return [
        (f"Best {SCORES[name]} so far", f"{max(row[name] for row in history if name in row):.2f} %")
        for name in HEADLINES
        if any(name in row for row in history)
    ]


def _add_activations(report: Report, run: RunFindings) -> None:
    report.heading("Learned activations")
    report.text(
        "Each colour is the function F of one group of channels, in the weights that the run keeps;"
        f" dashed is where it started. {run.seen}"
    )
    report.charts([Chart(charts.activation(a), _caption(a)) for a in run.activations], small=True)


def _caption(activation: Activation) -> str:
    shown = len(charts.drawn_groups(activation.num_groups))
    some = f", {shown} of {activation.num_groups} groups" if shown < activation.num_groups else ""
    return f"{activation.name}{some}"


def _add_symbols(report: Report, activations: Sequence[Activation]) -> None:
    report.heading("Symbolic reading")
    readings = [reading for activation in activations for reading in read_symbols(activation)]
    report.text(
        "The known function that is nearest to each, up to affine maps before and after it, over"
        " the inputs seen. A distance of 0 is equality, of 1 no better than a constant; the last"
        " column is how far the training has taken it from its start, on the same scale."
    )
    report.table(
        ("layer", "groups", "nearest (in how many groups)", "median distance", "from the start"),
        [_summed_up(a.name, readings) for a in activations],
    )
    columns = (
        "layer", "group", "nearest", "F(x) is about", "distance", "second", "its distance",
        "from the start",
    )  # fmt: skip
    listed = {a.name: charts.drawn_groups(a.num_groups) for a in activations}
    rows = [_reading(reading) for reading in readings if reading.group in listed[reading.layer]]
    report.numbers(Table(columns, rows))


def _summed_up(layer: str, readings: Sequence[Reading]) -> tuple[str, ...]:
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
            "There is no coefficients.csv in the run's folder: 'kat train' writes it while it"
            " trains."
        )
        return
    points = {activation.name: activation.x for activation in run.activations}
    report.chart(
        charts.evolution(run.coefficients, points),
        "The functions of a layer, chosen on the left, at the step of training that the slider"
        " says; dashed is where they started.",
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
        charts.gains(steps_of(rows), layers_of(rows), layer_by_step(rows, "gain", log=True)),
        "Gain realised by layer and step, E[y^2] / E[x^2]; 1 is preserved.",
    )
    report.charts(
        [
            Chart(
                _lines(rows, "drift"),
                "Drift of the coefficients, |c - c_0| / |c_0|, a line a layer.",
            ),
            Chart(
                _lines(rows, "outside"),
                "Share of the inputs outside the fit interval, a line a layer.",
            ),
        ]
    )
    report.text("'kat stability' makes a page of every quantity that was recorded.")


def _lines(rows: Sequence[Row], name: str) -> Any:
    steps, values = steps_of(rows), layer_by_step(rows, name, log=False)
    lines = {layer: (steps, y) for layer, y in zip(layers_of(rows), values, strict=True)}
    return charts.by_step(lines, name)


def _add_attention(report: Report, run: RunFindings) -> None:
    report.heading("Attention")
    if isinstance(run.attention, str):
        report.text(run.attention)
        return
    report.figure(
        run.attention,
        "Validation images as the model sees them, attention rollout, and what each block attends"
        " to, the mean of its heads.",
    )
