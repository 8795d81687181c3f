"""The tables and figures of docs/domains.md, from the rows that plan.py has made.

    python examples/domains/report.py                              # prints the tables
    python examples/domains/report.py --page docs/domains.md       # writes them into the page
    python examples/domains/report.py --forest forest.png          # draws every paired difference
    python examples/domains/report.py --curves language.png        # bits per byte against tokens

comparisons.py says what a difference is.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from extra import needed
from plan import PLAN, RESULTS

with needed():
    from comparisons import COMPARISONS, Line, kept_rates, lines
    from figures import forest, language_curves
    from matplotlib.figure import Figure
    from statsmodels.stats.multitest import multipletests
    from summary import rank, two_digits

from kat.analysis.ablation import markdown
from kat.files import replacing, write_text
from kat.tables import fill_tables

COMPARED = (
    "GR-KAN - GELU", "GR-KAN - SwiGLU", "gated GR-KAN - SwiGLU", "smooth GR-KAN - GELU",
    "GR-KAN - boosting", "GR-KAN - MiniRocket",
)  # fmt: skip
"""The differences that tables have beside the errors."""


def main() -> None:
    """Prints the tables, or writes them into a page, or draws the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of CSV files")
    parser.add_argument("--forest", type=Path, help="draw all differences into this file")
    parser.add_argument("--curves", type=Path, help="draw the curves of language into this file")
    parser.add_argument(
        "--page", type=Path, help="write the tables between their marks in this file"
    )
    options = parser.parse_args()
    found = {name: list(lines(name, options.results)) for name in options.domain}
    everything = [line for of_domain in found.values() for line in of_domain]
    if options.forest:
        save(forest(everything), options.forest)
    if options.curves:
        save(language_curves(options.results), options.curves)
    tables = {name: table(of_domain) for name, of_domain in found.items() if of_domain}
    if set(options.domain) == set(PLAN):
        tables["all"] = counts(everything)
        tables["rates"] = rates({name: list(kept_rates(name, options.results)) for name in found})
    if options.page:
        write_text(options.page, fill_tables(options.page.read_text(), tables))
    if not (options.forest or options.curves or options.page):
        print("".join(f"\n{name}\n\n{content}" for name, content in tables.items()))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure into a file of the format of its ending.

    Raises:
        SystemExit: the ending is none of a picture.
    """
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise SystemExit(f"{path} must end in one of {', '.join(f'.{name}' for name in known)}")
    with replacing(path) as draft:
        figure.savefig(draft, dpi=100, format=path.suffix.removeprefix("."))
    print(path)


def table(of_domain: list[Line]) -> str:
    """The errors of a domain in Markdown, the ranks of its arms, and the differences of GR-KAN."""
    arms = list(dict.fromkeys(arm for line in of_domain for arm in line.errors))
    found = {each.title for line in of_domain for each in line.differences}
    compared = [title for title in COMPARED if title in found]
    rows = []
    for line in of_domain:
        own = {
            d.title: f"{percent(d.mean)} ({percent(d.low)} to {percent(d.high)})"
            for d in line.differences
        }
        errors = [two_digits(line.errors[arm]) if arm in line.errors else "" for arm in arms]
        rows.append([line.task, *errors, *(own.get(title, "") for title in compared)])
    whole = [line for line in of_domain if len(line.errors) == len(arms)]
    if len(whole) > 1:
        means = [{arm: error.mean for arm, error in line.errors.items()} for line in whole]
        ranks = [statistics.fmean(rank(arm, each) for each in means) for arm in arms]
        rows.append(["mean rank", *(f"{each:.1f}" for each in ranks), *("" for _ in compared)])
    return markdown(["", *arms, *(f"{title}, %" for title in compared)], rows)


def percent(value: float) -> str:
    """A difference in percent, with a digit after the point if it is small."""
    return f"{value:+.0f}" if abs(value) >= 9.95 else f"{round(value, 1) + 0.0:+.1f}"


def counts(everything: list[Line]) -> str:
    """For each comparison, on how many lines the interval lies below zero, around it, above it.

    And on how many of them Holm's correction for the number of lines leaves it below or above.
    """
    rows = []
    for title in COMPARISONS:
        own = [each for line in everything for each in line.differences if each.title == title]
        if own:
            sides = [each.side for each in own]
            clear = multipletests([each.p for each in own], method="holm")[0]
            held = [side for side, holds in zip(sides, clear, strict=True) if holds]
            counted = [sides.count(side) for side in (-1, 0, 1)] + [held.count(-1), held.count(1)]
            median = f"{statistics.median(each.mean for each in own):+.1f}"
            rows.append([title, *map(str, counted), median])
    heads = ["", "error lower", "not told apart", "error higher"]
    heads += ["lower after Holm", "higher after Holm", "median, %"]
    return markdown(heads, rows)


def rates(kept: dict[str, list[int]]) -> str:
    """For each domain, how often a network keeps the lowest, middle and highest of its rates."""
    rows = [
        [name, *(str(places.count(place)) for place in range(3))] for name, places in kept.items()
    ]
    return markdown(["", "the lowest", "the middle one", "the highest"], rows)


if __name__ == "__main__":
    main()
