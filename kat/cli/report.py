"""``kat report``: one interactive page of a run, of several runs, or of a grid of runs."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from kat.analysis.ablation import read_runs
from kat.analysis.reports.ablation import write_ablation_report
from kat.analysis.reports.comparison import write_comparison_report
from kat.analysis.reports.findings import read_findings
from kat.analysis.reports.run import write_run_report
from kat.analysis.runs import find_runs, with_results
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.files import check_target
from kat.training import read_history
from kat.training.run_directory import REPORT
from kat.training.sweep.grid import kept_settings

_DESCRIPTION = """\
Makes one HTML page that stands alone: it needs no network, follows the reader's light or dark mode,
and its charts answer to the pointer. Of a run: results, learning curves, what its rationals have
learned and how, stability, attention. Of several runs: results, costs, learning curves, settings.
Of tables of 'kat ablate': means, intervals, paired differences, costs.

examples:
  kat report runs/digits                          runs/digits/report.html
  kat report runs/kat runs/vit --out compared.html
  kat report runs/ablation/models.csv             runs/ablation/models.html"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, reads what there is, writes the page."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    given = [Path(path) for path in dict.fromkeys(parsed.runs)]
    tables = [path for path in given if path.suffix == ".csv"]
    if tables and tables != given:
        raise InputError(
            "tables of 'kat ablate' and folders of runs go on pages of their own; got both"
        )
    out = Path(parsed.out) if parsed.out else _default_target(given)
    check_target(out, (".html",))
    if parsed.images < 0:
        raise InputError(f"--images must be at least 0, got {parsed.images}")
    if tables or len(given) > 1:
        _refuse_what_does_nothing(parsed, parser.get_defaults())
    if tables:
        _report_grids(tables, out)
    elif len(given) > 1:
        _report_comparison(given, out)
    else:
        write_run_report(read_findings(given[0], parsed.images, parsed.data), out)
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat report``."""
    parser = Parser(prog="kat report", description=_DESCRIPTION, formatter_class=Formatter)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of runs, or the .csv files of 'kat ablate'")
    add(
        "--out",
        type=str | None,
        help="where to write (default: report.html in the run's folder, GRID.html beside a table,"
        " report.html beside the first of several)",
    )
    add("--data", type=str | None, help="of a run: take images of this data set, not of its own")
    add("--images", type=int, default=256, help="of a run: how many validation images; 0: none")
    return parser


def _refuse_what_does_nothing(parsed: Namespace, default: Namespace) -> None:
    """Options of the page of one run, on another page."""
    for name in ("data", "images"):
        if getattr(parsed, name) != getattr(default, name):
            raise InputError(
                f"--{name} is for the page of one run; tables and several runs show no images"
            )


def _default_target(given: Sequence[Path]) -> Path:
    first = given[0]
    if len(given) > 1:
        return first.parent / REPORT
    return first.with_suffix(".html") if first.suffix == ".csv" else first / REPORT


def _report_grids(tables: Sequence[Path], out: Path) -> None:
    grids = {path.stem: read_runs(path) for path in tables}
    if len(grids) < len(tables):
        raise InputError(f"two tables have the same name: {', '.join(map(str, tables))}")
    histories = {
        path.stem: {row["run"]: read_history(path.parent / row["run"]) for row in grids[path.stem]}
        for path in tables
    }
    write_ablation_report(grids, histories, out)


def _report_comparison(folders: Sequence[Path], out: Path) -> None:
    rows = [with_results(row) for row in find_runs(folders, group=False, labels=None)]
    histories = {row["cell"]: read_history(row["folder"]) for row in rows}
    settings = {row["cell"]: kept_settings(row["folder"]) for row in rows}
    write_comparison_report(rows, histories, settings, out)
