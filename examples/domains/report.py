"""The tables and the forest plot of docs/domains.md, from the rows that plan.py has made.

    python examples/domains/report.py                              # prints the tables
    python examples/domains/report.py --page docs/domains.md       # writes them into the page
    python examples/domains/report.py --forest forest.png          # draws every paired difference

A difference is the ratio of the errors of an arm and its reference less one, in percent: -10 % is
an error lower by a tenth. It is the geometric mean over the seeds that both have, with the 95 %
interval that the t distribution gives their logarithms, not corrected for their number.
Where an arm or its reference makes no error at all with a seed, or diverges, there is no ratio.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from extra import needed
from plan import PLAN, RESULTS

with needed():
    from matplotlib import pyplot
    from matplotlib.figure import Figure
    from rows import Runs
    from runner import Domain

from kat.analysis.ablation import Estimate
from kat.files import replacing, write_text

COMPARISONS = {
    "grkan": "GR-KAN - GELU",
    "gated_grkan": "gated GR-KAN - SwiGLU",
    "frozen": "frozen - GELU",
    "swiglu": "SwiGLU - GELU",
}
"""By arm, what its difference is."""


class Difference(NamedTuple):
    """The ratio of the errors of an arm and its reference less one, in percent, with its ends."""

    arm: str
    mean: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """-1 or 1 if the interval lies below or above zero, else 0."""
        return (self.low > 0) - (self.high < 0)


class Line(NamedTuple):
    """A task with a body and a measure: errors by arm, and the differences of its arms."""

    domain: str
    task: str
    errors: dict[str, str]
    differences: list[Difference]


def main() -> None:
    """Prints the tables, or draws the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of CSV files")
    parser.add_argument("--forest", type=Path, help="draw all differences into this file")
    parser.add_argument(
        "--page", type=Path, help="write the tables between their marks in this file"
    )
    options = parser.parse_args()
    found = {name: list(lines(name, options.results)) for name in options.domain}
    everything = [line for of_domain in found.values() for line in of_domain]
    if options.forest:
        draw(everything, options.forest)
    tables = {name: table(of_domain) for name, of_domain in found.items() if of_domain}
    if options.domain == list(PLAN):  # the counts of some domains are not those of all
        tables["all"] = counts(everything)
    if options.page:
        write_text(options.page, filled(options.page.read_text(), tables))
    if not (options.forest or options.page):
        print("".join(f"\n{name}\n\n{content}\n" for name, content in tables.items()))


def filled(page: str, tables: Mapping[str, str]) -> str:
    """A page with each table between its marks, <!-- rows of NAME --> and <!-- end of rows -->."""
    for name, content in tables.items():
        begin, end = f"<!-- rows of {name} -->", "<!-- end of rows -->"
        before, mark, after = page.partition(begin)
        if mark:  # Markdown wants empty lines around a table
            page = f"{before}{mark}\n\n{content}\n\n{end}{after.partition(end)[2]}"
    return page


def lines(name: str, results: Path) -> Iterator[Line]:
    """What the rows of a domain say, a line for each task, body and measure that has tests."""
    domain: Domain = importlib.import_module(name).DOMAIN
    bodies = dict.fromkeys(arm.rpartition("/")[0] for arm in domain.references)
    for task in PLAN[name]["tasks"]:
        runs = domain.runs(results / f"{name}.csv", task, PLAN[name]["steps"])
        for body in bodies:
            for measure in domain.measures:
                of_test = "" if measure == "test" else measure
                title = ", ".join(filter(None, (task, body, of_test)))
                line = _line(name, title, runs, domain, body, measure)
                if line.errors:
                    yield line


def _line(name: str, title: str, runs: Runs, domain: Domain, body: str, measure: str) -> Line:
    errors, differences = {}, []
    for arm in domain.rates:
        own_body, _, layer = arm.rpartition("/")
        if own_body not in ("", body) or not runs.done(arm, "test"):
            continue
        errors[layer] = _text(runs.estimate(arm, measure))
        ratio = _log_ratio(runs, arm, domain.references.get(arm, ""), measure)
        if ratio and layer in COMPARISONS:
            ends = ratio.mean, ratio.mean - ratio.half_width, ratio.mean + ratio.half_width
            differences.append(Difference(layer, *(100 * math.expm1(end) for end in ends)))
    return Line(name, title, errors, differences)


def _text(error: Estimate) -> str:
    """Two significant digits of the interval, and as many places of the mean."""
    width = error.half_width
    return error.text(max(0, 1 - math.floor(math.log10(width))) if width > 0 else 4)


def _log_ratio(runs: Runs, arm: str, reference: str, measure: str) -> Estimate | None:
    """The mean logarithm of the ratio of errors, over two seeds at least; None if there is none."""
    pairs = runs.pairs(arm, reference, measure)
    if len(pairs) < 2 or not all(0 < error < math.inf for pair in pairs for error in pair):
        return None
    return Estimate.of([math.log(error / of) for error, of in pairs])


def table(of_domain: list[Line]) -> str:
    """The errors of a domain in Markdown, with the differences of the two kinds of GR-KAN."""
    arms = list(dict.fromkeys(arm for line in of_domain for arm in line.errors))
    compared = list(COMPARISONS)[:2]
    rows = []
    for line in of_domain:
        own = {d.arm: f"{d.mean:+.0f} ({d.low:+.0f} to {d.high:+.0f})" for d in line.differences}
        cells = [line.errors.get(arm, "") for arm in arms]
        rows.append([line.task, *cells, *(own.get(arm, "") for arm in compared)])
    return markdown(["", *arms, *(f"{COMPARISONS[arm]}, %" for arm in compared)], rows)


def counts(everything: list[Line]) -> str:
    """For each comparison, on how many lines the interval lies below zero, around it, above it."""
    rows = []
    for arm, title in COMPARISONS.items():
        own = [each for line in everything for each in line.differences if each.arm == arm]
        sides = [each.side for each in own]
        middle = statistics.median(each.mean for each in own) if own else math.nan
        rows.append([title, *(str(sides.count(side)) for side in (-1, 0, 1)), f"{middle:+.1f}"])
    heads = ["", "error lower", "not told apart", "error higher", "median, %"]
    return markdown(heads, rows)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def draw(everything: list[Line], path: Path) -> None:
    """The forest plot in a file."""
    with replacing(path) as draft:
        forest(everything).savefig(draft, dpi=100, format=path.suffix.removeprefix("."))
    print(f"{sum(len(line.differences) for line in everything)} differences in {path}")


def forest(everything: list[Line]) -> Figure:
    """A panel for each comparison, a row for each line that has differences.

    Blue: the error is lower than the reference's, the interval is below zero; red: it is higher.
    """
    places = [line for line in everything if line.differences]
    several = len({line.domain for line in places}) > 1
    names = [f"{line.domain}: {line.task}" if several else line.task for line in places]
    figure, axes = pyplot.subplots(
        1, len(COMPARISONS), figsize=(12, 2 + 0.2 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (arm, title) in zip(axes, COMPARISONS.items(), strict=True):
        for place, line in enumerate(places):
            for each in (one for one in line.differences if one.arm == arm):
                color = ("gray", "tab:red", "tab:blue")[each.side]
                axis.plot((each.low, each.high), (-place, -place), color=color)
                axis.plot(each.mean, -place, "o", color=color, markersize=4)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set(title=title, xlabel="ratio of errors - 1, %")
    axes[0].set_yticks([-place for place in range(len(names))], names)
    return figure


if __name__ == "__main__":
    main()
