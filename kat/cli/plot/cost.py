"""``kat plot cost``: accuracy against parameters, FLOPs, seconds and memory.

Draws the first metric of a task (top-1, box AP, mIoU), with its 95 % interval over the seeds,
against the costs of a model, and joins the Pareto front. A cell of a table, or the run directories
that --group puts together, is one point. The metric is that of the test in tables of grids with
'test: true', else that of the validation; the axis says which. Seconds depend on the machine: runs
at the same time slow each other down.

examples:
  kat plot cost runs/ablation/models.csv
  kat plot cost runs/kat runs/vit --labels KAT ViT --x flops --out flops.svg
"""

from __future__ import annotations

from kat.analysis.ablation import compared, main_metric, summarize, with_split
from kat.analysis.figures.base import save_figure
from kat.analysis.figures.grids import COSTS, draw_costs, pareto_front
from kat.analysis.runs import find_runs, with_results
from kat.cli.options.parser import Parser
from kat.cli.plot.curves import add_run_arguments
from kat.errors import InputError
from kat.text import say

_ALL = "all"


def main(arguments: list[str]) -> None:
    """Finds the costs, draws."""
    options = make_parser().parse_args(arguments)
    found = find_runs(options.runs, group=options.group, labels=options.labels)
    rows = [with_results(row) for row in found]
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise InputError(f"no run of {', '.join(map(str, options.runs))} is done")
    metric = compared(main_metric(done), done)
    results = summarize(rows, measure=metric.name)
    costs = list(COSTS) if options.x == _ALL else [options.x]
    save_figure(draw_costs(results, metric, costs), options.out)
    for result in results:
        if result.estimate is None:
            has_run = result.row["status"] == "done"
            reason = f"no run has a {with_split(metric)}" if has_run else "no run is done"
            say(f"left out, {reason}: {result.name}")
    for cost in costs:
        names = ", ".join(result.name for result in pareto_front(results, cost))
        say(f"Pareto front in {cost}: {names}")
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot cost``."""
    parser = Parser(__doc__, "RUN...")
    add_run_arguments(parser)
    parser.add("--x", choices=[*COSTS, _ALL], default=_ALL, help="the cost; all: a panel each")
    parser.add_picture("cost.svg")
    return parser
