"""``kat stability``: report on the GR-KAN layers of monitored runs.

A run is monitored by 'kat train --monitor': every monitor.every_n_steps steps it records, for every
GR-KAN layer, mean and variance of inputs and outputs, the gain realized, gradients, the range of Q,
the share of inputs outside the fit interval, drift of the coefficients, dead and exploding groups.
This command prints a verdict and writes stability.html into the run directory, as training does
when it ends. --out draws the figures as well, of several runs side by side on one scale.

examples:
  kat train --config digits --monitor
  kat stability runs/digits
  kat stability runs/digits runs/trunc_normal --out figures
"""

from __future__ import annotations

from pathlib import Path

from kat.analysis import Verdict, plot_stability, write_stability_report
from kat.cli.options.parser import Parser
from kat.errors import InputError
from kat.files import check_exists, check_target
from kat.nn.monitoring.stability import read_rows
from kat.text import say
from kat.training import read_divergence
from kat.training.run_directory import STABILITY, STABILITY_REPORT


def main(arguments: list[str]) -> None:
    """Writes the reports, and draws the figures."""
    options = make_parser().parse_args(arguments)
    runs = [Path(run) for run in options.runs]
    for run in runs:
        check_exists(run)
        check_target(run / STABILITY_REPORT)
    if options.out:
        _draw(runs, options.out)
    for run in runs:
        report(run)


def make_parser() -> Parser:
    """The parser of ``kat stability``."""
    parser = Parser(__doc__, "RUN...")
    parser.add("runs", nargs="+", metavar="RUN", help="the run directories of monitored runs")
    parser.add_folder("--out", "draw the variance by layer, and the heat maps, into this folder")
    return parser


def report(out: Path) -> None:
    """Writes stability.html of a monitored run, and prints the verdict."""
    rows, failure = read_rows(out / STABILITY), read_divergence(out)
    write_stability_report(rows, out / STABILITY_REPORT, failure)
    say(*Verdict.of(rows, failure).lines, f"report: {out / STABILITY_REPORT}")


def _draw(runs: list[Path], folder: Path) -> None:
    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(runs) else [str(run) for run in runs]
    if len(set(labels)) < len(runs):
        raise InputError(f"a run is given twice: {', '.join(labels)}")
    rows = {label: read_rows(run / STABILITY) for label, run in zip(labels, runs, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    plot_stability(rows if len(rows) > 1 else {"": rows[labels[0]]}, folder)
