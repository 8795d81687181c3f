"""``kat report``: one interactive page of a run, of several runs, or of a grid of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat.analysis.ablation import read_runs
from kat.analysis.ablation_report import write_ablation_report
from kat.analysis.comparison_report import write_comparison_report
from kat.cli.ablate import measure
from kat.cli.parsing import Formatter, Parser, run_command
from kat.cli.plot.runs import find_runs
from kat.errors import InputError
from kat.files import check_target
from kat.training import read_history
from kat.training.folder import REPORT
from kat.training.grid import kept_settings

_DESCRIPTION = """\
Makes one HTML page that stands alone: it needs no network, follows the reader's light or dark mode,
and its charts answer to the pointer. Of a run: results, learning curves, the functions that its
rationals have learned, what they are, how they came to be. Of several runs: results, costs, learning
curves, settings. Of tables of 'kat ablate': means, intervals, paired differences, costs.

examples:
  kat report runs/digits                          runs/digits/report.html
  kat report runs/kat runs/vit --out compared.html
  kat report runs/ablation/models.csv             runs/ablation/models.html"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, reads what there is, writes the page."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    given = [Path(path) for path in dict.fromkeys(parsed.runs)]
    tables = [path for path in given if path.suffix == ".csv"]
    if tables and tables != given:
        raise InputError(
            "tables of 'kat ablate' and folders of runs go on pages of their own; got both"
        )
    out = Path(parsed.out) if parsed.out else _default_target(given)
    check_target(out)
    if tables:
        _report_grids(tables, out)
    else:
        _report_comparison(given, out)
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
    return parser


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
        row["run"]: read_history(path.parent / row["run"])
        for path in tables
        for row in grids[path.stem]
    }
    write_ablation_report(grids, histories, out)


def _report_comparison(folders: Sequence[Path], out: Path) -> None:
    rows = [_measured(row) for row in find_runs(list(map(str, folders)), group=False, labels=None)]
    histories = {row["cell"]: read_history(row["folder"]) for row in rows}
    settings = {row["cell"]: kept_settings(row["folder"]) for row in rows}
    write_comparison_report(rows, histories, settings, out)
