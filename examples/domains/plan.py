"""Makes the runs of plan.yaml, and from their rows the forest plot and the tables of the page.

    python examples/domains/plan.py                        # every run that is missing, hours
    python examples/domains/plan.py --domain series        # those of a domain
    python examples/domains/plan.py --table                # no runs: tables of what is done
    python examples/domains/plan.py --forest forest.png    # no runs: every paired difference

Rows are in examples/domains/results, a CSV file a domain. A run whose row is there is not made
again, so the plan can be stopped, and its domains can run side by side. Each process takes the
threads that OMP_NUM_THREADS says.

A difference is that of the errors of an arm and its reference, over the seeds that both have, as a
share of the reference's mean error: -10 % is an error lower by a tenth. Intervals are at 95 %, by
the t distribution, none corrected for the number of comparisons.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from extra import needed

with needed():
    import yaml
    from matplotlib import pyplot
    from rows import Runs
    from runner import Domain

from kat.files import replacing
from kat.tables import print_table

FOLDER = Path(__file__).parent
PLAN: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "plan.yaml").read_text())
PANELS = {
    "grkan": "GR-KAN - GELU",
    "gated_grkan": "gated GR-KAN - SwiGLU",
    "frozen": "frozen - GELU",
    "swiglu": "SwiGLU - GELU",
}
"""By arm, what its difference is."""


class Difference(NamedTuple):
    """The errors of an arm less those of its reference, in percent of the reference's mean."""

    arm: str
    row: str
    mean: float
    half_width: float


def main() -> None:
    """Makes runs, or shows what is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--results", type=Path, default=FOLDER / "results", help="of CSV files")
    parser.add_argument("--table", action="store_true", help="make no runs")
    parser.add_argument("--forest", type=Path, help="make no runs, draw all differences")
    options = parser.parse_args()
    if options.forest:
        found = [each for name in options.domain for each in differences(name, options.results)]
        print_counts(found)
        draw(found, options.forest)
        return
    for name in options.domain:
        command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments(name, options.results)]
        subprocess.run([*command, *(["--table"] if options.table else [])], check=True)


def arguments(name: str, results: Path) -> list[str]:
    """The options of a domain's own command."""
    declared = PLAN[name]
    seeds = map(str, declared["seeds"])
    return [
        "--task", *declared["tasks"], "--seed", *seeds, "--steps", str(declared["steps"]),
        "--csv", str(results / f"{name}.csv"),
    ]  # fmt: skip


def differences(name: str, results: Path) -> Iterator[Difference]:
    """Every paired difference of a domain, from the rows that are there."""
    domain: Domain = importlib.import_module(name).DOMAIN
    for task in PLAN[name]["tasks"]:
        runs = domain.runs(results / f"{name}.csv", task, PLAN[name]["steps"])
        for measure in domain.measures:
            yield from _paired(runs, domain.references, f"{name}: {task}", measure)


def _paired(
    runs: Runs, references: Mapping[str, str], title: str, measure: str
) -> Iterator[Difference]:
    for arm, reference in references.items():
        difference = runs.difference(arm, reference, measure)
        of = runs.estimate(reference, measure).mean if difference else 0.0
        body, _, layer = arm.rpartition("/")
        if difference and of and layer in PANELS:
            row = ", ".join(filter(None, (title, body, measure if measure != "test" else "")))
            yield Difference(
                layer, row, 100 * difference.mean / of, 100 * difference.half_width / of
            )


def print_counts(found: list[Difference]) -> None:
    """For each comparison, on how many rows the interval lies below zero, above it, or on it."""
    heads = ("difference", "rows", "lower error", "not told apart", "higher error", "median")
    rows = []
    for arm, title in PANELS.items():
        own = [each for each in found if each.arm == arm]
        lower = sum(each.mean + each.half_width < 0 for each in own)
        higher = sum(each.mean - each.half_width > 0 for each in own)
        middle = sorted(each.mean for each in own)[len(own) // 2] if own else float("nan")
        told = lower + higher
        rows.append((title, len(own), lower, len(own) - told, higher, f"{middle:+.1f} %"))
    print_table(heads, rows)


def draw(found: list[Difference], path: Path) -> None:
    """A panel for each comparison, a line for each task and body."""
    names = list(dict.fromkeys(each.row for each in found))
    height = {name: -place for place, name in enumerate(names)}
    figure, axes = pyplot.subplots(
        1, len(PANELS), figsize=(16, 2 + 0.2 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (arm, title) in zip(axes, PANELS.items(), strict=True):
        for each in (one for one in found if one.arm == arm):
            y, ends = height[each.row], (each.mean - each.half_width, each.mean + each.half_width)
            color = "tab:blue" if ends[1] < 0 else "tab:red" if ends[0] > 0 else "gray"
            axis.plot(ends, (y, y), color=color)
            axis.plot(each.mean, y, "o", color=color, markersize=4)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set(title=title, xlabel="error, percent of the reference's")
    axes[0].set_yticks(list(height.values()), names)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=100, format=path.suffix.removeprefix(".") or "png")
    print(f"{len(found)} differences in {path}")


if __name__ == "__main__":
    main()
