"""The page of a monitored run: the verdict, heat maps of layer and step, a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kat.analysis.figures.stability import (
    BLOCKS,
    LINES,
    MAPS,
    draw_lines,
    draw_map,
    draw_variance,
)
from kat.analysis.inspect.stability import (
    Verdict,
    is_preserved,
    layers_of,
    rational_rows,
    thinned,
)
from kat.analysis.reports.page import Report
from kat.nn.monitoring.stability import Row


def write_stability_report(
    rows: Sequence[Row], path: str | Path, failure: str | None = None
) -> None:
    """Writes the report of a run as one self-contained HTML page.

    Args:
        rows: recorded by a :class:`kat.nn.StabilityMonitor`.
        path: the path of the file.
        failure: what stopped the run, if anything did.

    Raises:
        InputError: there are no rows of rational layers.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import write_stability_report
        >>> from kat.nn.monitoring.stability import read_rows
        >>> rows = read_rows(Path("runs/digits/stability.csv"))
        >>> write_stability_report(rows, Path("stability.html"))
    """
    path = Path(path)
    verdict = Verdict.of(rows, failure)
    rationals = rational_rows(rows)
    report = Report("Training stability")
    for line in verdict.lines:
        report.text(line)
    report.heading("Variance by layer")
    report.figure(
        draw_variance({"": rationals}),
        "Variance of inputs, activations and outputs at the first and last step.",
    )
    report.heading("Layers")
    _add_table(report, rationals)
    drawn = thinned(rationals)
    report.heading("By layer and step")
    for quantity in MAPS:
        report.figure(draw_map({"": drawn}, quantity), quantity.caption)
    report.heading("Over training")
    for quantity in LINES:
        report.figure(draw_lines(drawn, quantity), quantity.caption)
    blocks = [row for row in rows if "drift" not in row]
    if blocks:
        report.figure(draw_lines(thinned(blocks), BLOCKS), BLOCKS.caption)
    report.write(path)


def _add_table(report: Report, rationals: Sequence[Row]) -> None:
    columns = (
        "layer", "gain, first", "last", "smallest", "largest", "not preserved from step",
        "outside, most", "Q, smallest", "largest", "drift, last", "dead groups", "exploding",
    )  # fmt: skip
    cells, bad = [], []
    for layer in layers_of(rationals):
        own = [row for row in rationals if row["layer"] == layer]
        gains = [row["gain"] for row in own]
        broken = [row["step"] for row in own if not is_preserved(row["gain"])]
        cells.append(
            (
                layer,
                *(f"{gain:.3g}" for gain in (gains[0], gains[-1], min(gains), max(gains))),
                broken[0] if broken else "",
                f"{max(row['outside'] for row in own):.2%}",
                f"{min(row['q_min'] for row in own):.3g}",
                f"{max(row['q_max'] for row in own):.3g}",
                f"{own[-1]['drift']:.3g}",
                f"{max(row['dead_groups'] for row in own):.0f}",
                f"{max(row['exploding_groups'] for row in own):.0f}",
            )
        )
        bad.append(bool(broken))
    report.table(columns, cells, bad)
