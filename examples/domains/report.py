"""The tables and figures of docs/domains.md, from the rows that plan.py has made.

    python examples/domains/report.py                              # prints the tables
    python examples/domains/report.py --page docs/domains.md       # writes them into the page
    python examples/domains/report.py --csv summary.csv            # every error and difference
    python examples/domains/report.py --forest forest.svg          # draws every GR-KAN - GELU
    python examples/domains/report.py --curves language.svg        # bits per byte against tokens

comparisons.py says what a difference is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from extra import needed
from plan import PLAN, RESULTS

with needed():
    from comparisons import COMPARISONS, Line, kept_rates, lines
    from figures import forest, language_curves
    from statsmodels.stats.multitest import multipletests
    from summary import two_digits

from kat.analysis.ablation import markdown
from kat.analysis.figures.base import save_figure
from kat.files import write_text
from kat.tables import fill_tables, write_table

COMPARED = (
    "GR-KAN - GELU", "GR-KAN - SwiGLU", "smooth GR-KAN - GELU", "GR-KAN - boosting",
    "GR-KAN - MiniRocket", "gated GR-KAN - SwiGLU",
)  # fmt: skip
"""The differences of the tables, which show the first three that a domain has."""
COLUMNS = ("domain", "task", "what", "mean", "low", "high")


def main() -> None:
    """Prints the tables, or writes them into a page, or draws the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of CSV files")
    parser.add_argument("--forest", type=Path, help="draw GR-KAN - GELU into this file")
    parser.add_argument("--curves", type=Path, help="draw the curves of language into this file")
    parser.add_argument("--page", type=Path, help="write the tables between their marks here")
    parser.add_argument("--csv", type=Path, help="write all errors and differences here")
    options = parser.parse_args()
    found = {name: list(lines(name, options.results)) for name in options.domain}
    everything = [line for of_domain in found.values() for line in of_domain]
    if options.forest:
        save_figure(forest(everything), options.forest)
    if options.curves:
        save_figure(language_curves(options.results), options.curves)
    tables = {name: table(of_domain) for name, of_domain in found.items() if of_domain}
    if set(options.domain) == set(PLAN):
        tables["all"] = counts(everything)
        tables["rates"] = rates({name: list(kept_rates(name, options.results)) for name in found})
    if options.page:
        write_text(options.page, fill_tables(options.page.read_text(), tables))
    if options.csv:
        write_table(options.csv, COLUMNS, cells(everything))
    if not (options.forest or options.curves or options.page or options.csv):
        print("".join(f"\n{name}\n\n{content}" for name, content in tables.items()))


def table(of_domain: list[Line]) -> str:
    """The ratios of GR-KAN's errors in Markdown, a row for each task with the error of GELU."""
    found = {each.title for line in of_domain for each in line.differences}
    compared = [title for title in COMPARED if title in found][:3]
    rows = []
    for line in of_domain:
        own = {
            d.title: f"{percent(d.mean)} ({percent(d.low)} to {percent(d.high)})"
            for d in line.differences
        }
        error = f" ({two_digits(line.errors['gelu'])})" if "gelu" in line.errors else ""
        rows.append([line.task + error, *(own.get(title, "no ratio") for title in compared)])
    return markdown(["task (error of GELU)", *(f"{title}, %" for title in compared)], rows)


def cells(everything: list[Line]) -> Iterator[tuple[str, ...]]:
    """The rows of the CSV file: for each task the error of each arm, then each difference."""
    for line in everything:
        for arm, error in line.errors.items():
            ends = error.mean, error.mean - error.half_width, error.mean + error.half_width
            yield line.domain, line.task, arm, *(f"{end:.6g}" for end in ends)
        for each in line.differences:
            yield line.domain, line.task, f"{each.title}, %", *(f"{end:.6g}" for end in each[1:4])


def percent(value: float) -> str:
    """A difference in percent, with a digit after the point if it is small."""
    return f"{value:+.0f}" if abs(value) >= 9.95 else f"{round(value, 1) + 0.0:+.1f}"


def counts(everything: list[Line]) -> str:
    """For each comparison, on how many lines the interval lies below zero, around it, above it.

    An interval around zero is not informative if it contains an effect of 10 %, too. In brackets:
    on how many lines it lies below or above after Holm's correction for the number of lines.
    """
    rows = []
    for title in COMPARISONS:
        own = [each for line in everything for each in line.differences if each.title == title]
        if own:
            sides = [each.side for each in own]
            clear = multipletests([each.p for each in own], method="holm")[0]
            held = [side for side, holds in zip(sides, clear, strict=True) if holds]
            lower, higher = (f"{sides.count(side)} ({held.count(side)})" for side in (-1, 1))
            unsure = [max(-each.low, each.high) > 10 for each in own if each.side == 0]
            around = (str(unsure.count(wide)) for wide in (False, True))
            rows.append([title, lower, *around, higher])
    return markdown(["", "lower", "inconclusive", "not informative", "higher"], rows)


def rates(kept: dict[str, list[int]]) -> str:
    """For each domain, how often a network keeps the lowest, middle and highest of its rates."""
    rows = [
        [name, *(str(places.count(place)) for place in range(3))] for name, places in kept.items()
    ]
    return markdown(["", "the lowest", "the middle one", "the highest"], rows)


if __name__ == "__main__":
    main()
