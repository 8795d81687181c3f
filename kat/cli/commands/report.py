"""``kat report``: write one page about a run, of several runs, or of an ablation.

The page is one HTML file that needs no network and no scripts, and follows the light or dark mode
of the browser. A run: results, learning curves, predictions, the learned rationals and their
evolution, attention, and stability if it was monitored. Several runs: results, costs, learning
curves, settings. Tables of 'kat ablate': means, intervals, paired differences, costs.

examples:
  kat report runs/digits                          runs/digits/report.html
  kat report runs/kat runs/vit --out compared.html
  kat report runs/ablation/models.csv             runs/ablation/models.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kat
from kat.cli.options.parser import Parser, refuse_options
from kat.files import short_names
from kat.settings import CountOrZero
from kat.text import say


def main(arguments: list[str]) -> None:
    """Read what there is, write the page."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    from kat.analysis.reports.findings import read_findings  # imports torch
    from kat.analysis.reports.grids import write_comparison_report
    from kat.analysis.reports.run import write_run_report
    from kat.analysis.runs import find_runs, with_results
    from kat.training.record.run_directory import REPORT
    from kat.training.sweep.plan import settings_of

    runs: list[Path] = list(dict.fromkeys(options.runs))
    tables = [path for path in runs if path.suffix == ".csv"]
    beside = runs[0].parent if len(runs) > 1 else runs[0]
    out = options.out or (runs[0].with_suffix(".html") if runs == tables[:1] else beside / REPORT)
    if tables or len(runs) > 1:
        refuse_options(parser, options, ("data", "images"), "on the page of several runs")
    if tables:
        _report_grids(runs, out)
    elif len(runs) > 1:
        rows = [with_results(row) for row in find_runs(runs, group=False, labels=None)]
        histories, settings = {}, {}
        for row in rows:
            cell, folder = row["cell"], row["folder"]
            histories[cell] = kat.training.read_history(folder)
            settings[cell] = settings_of(kat.training.read_settings(folder))
        write_comparison_report(rows, histories, settings, out)
    else:
        write_run_report(read_findings(runs[0], options.images, options.data), out)
    say(out)


def make_parser() -> Parser:
    """Return the parser of ``kat report``."""
    parser = Parser(__doc__, "RUN...")
    parser.add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run directories, or .csv tables of 'kat ablate'",
    )
    parser.add_file(
        "--out",
        "the page (default: report.html in the run directory, GRID.html beside a table,"
        " report.html beside the first of several runs)",
        (".html",),
    )
    parser.add_common("--data")
    parser.add(
        "--images",
        type=CountOrZero,
        default=256,
        metavar="N",
        help="validation images on the page of a run; 0: none",
    )
    return parser


def _report_grids(tables: Sequence[Path], out: Path) -> None:
    from kat.analysis.reports.grids import write_ablation_report
    from kat.analysis.runs import read_runs

    grids, histories = {}, {}
    for path, name in zip(tables, short_names(tables), strict=True):
        rows = grids[name.removesuffix(".csv")] = read_runs(path)
        runs = {row["run"]: kat.training.read_history(path.parent / row["run"]) for row in rows}
        histories[name.removesuffix(".csv")] = runs
    write_ablation_report(grids, histories, out)
