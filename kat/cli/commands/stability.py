"""``kat stability``: report on the GR-KAN layers of monitored runs.

'kat train --monitor' makes a monitored run. Every monitor.every_n_steps steps the run records, for
each GR-KAN layer, mean and variance of inputs and outputs, the gain, gradients, the range of Q, the
share of inputs outside the fit interval, drift of the coefficients, dead and exploding groups. This
command prints a verdict and a table of the layers, as training does at its end. --out draws the
gain of each layer at each step, several runs side by side on one scale.

examples:
  kat train --config digits --monitor
  kat stability runs/digits
  kat stability runs/digits runs/trunc_normal --out gain.svg
"""

from __future__ import annotations

from pathlib import Path

import kat
from kat.cli.options.parser import Parser
from kat.cli.options.stability_report import print_stability
from kat.files import PICTURES, short_names


def main(arguments: list[str]) -> None:
    """Draw the figure, and print the reports."""
    options = make_parser().parse_args(arguments)
    from kat.nn.stability import read_rows  # imports torch
    from kat.training.record.run_directory import STABILITY

    runs: list[Path] = options.runs
    if options.out:
        labels = short_names(runs) if len(runs) > 1 else [""]
        rows = {label: read_rows(run / STABILITY) for label, run in zip(labels, runs, strict=True)}
        kat.analysis.plot_stability(rows, options.out)
    for run in runs:
        print_stability(run)


def make_parser() -> Parser:
    """Return the parser of ``kat stability``."""
    parser = Parser(__doc__, "RUN...")
    parser.add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="the run directories of monitored runs",
    )
    parser.add_file("--out", f"draw the gains into this file ({', '.join(PICTURES)})", PICTURES)
    return parser
