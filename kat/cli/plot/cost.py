"""``kat plot cost``: accuracy against parameters, FLOPs, seconds and memory."""

from __future__ import annotations

import sys
from pathlib import Path

from kat.analysis.ablation import summarize
from kat.analysis.cost.pareto import COSTS, cost_points, pareto_front
from kat.analysis.figures.costs import plot_costs
from kat.analysis.learning_curves import common_headline
from kat.analysis.runs import find_runs, with_results
from kat.cli.parsing import Formatter, Parser, run_command
from kat.cli.plot.run_arguments import add_run_arguments
from kat.errors import InputError, unknown
from kat.files import PICTURES, check_target

_ALL = "all"
_DESCRIPTION = """\
Draws the first score of a task (top-1, box AP, mIoU) with its 95 % interval over the seeds against
what a model costs, and joins those that no other one beats in both. A cell of a table, or the
folders that --group takes together, is one point. Seconds are those of the machine at the time:
runs side by side disturb each other's.

examples:
  kat plot cost runs/ablation/models.csv
  kat plot cost runs/kat runs/vit --labels KAT ViT --x flops --out flops.svg"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, finds the costs, draws."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    check_target(out, PICTURES)
    if parsed.x not in (*COSTS, _ALL):
        raise unknown("cost", parsed.x, (*COSTS, _ALL))
    found = find_runs(list(map(Path, parsed.runs)), group=parsed.group, labels=parsed.labels)
    rows = [with_results(row) for row in found]
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise InputError(f"no run of {', '.join(parsed.runs)} is done")
    score = common_headline(done)
    results = summarize(rows, measure=score)
    points = cost_points(results)
    costs = list(COSTS) if parsed.x == _ALL else [parsed.x]
    plot_costs(points, costs, out, score)
    lines = [f"left out, no run is done: {r.name}" for r in results if r.estimate is None]
    for cost in costs:
        names = ", ".join(point.label for point in pareto_front(points, cost))
        lines.append(f"Pareto front in {cost}: {names}")
    sys.stdout.writelines(f"{line}\n" for line in (*lines, out))


def make_parser() -> Parser:
    """The parser of ``kat plot cost``."""
    parser = Parser(prog="kat plot cost", description=_DESCRIPTION, formatter_class=Formatter)
    add_run_arguments(parser)
    parser.add_argument("--x", default=_ALL, help=f"{', '.join(COSTS)}, or {_ALL}: a panel each")
    parser.add_argument("--out", default="cost.svg", help="where to draw; .png, .svg or .pdf")
    return parser
