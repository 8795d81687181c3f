"""``kat stability``: a training run that is watched, and the report of what was seen."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path

from jsonargparse import DefaultHelpFormatter

from kat.cli import train
from kat.cli.parsing import Parser, run_command
from kat.errors import InputError
from kat.files import check_target
from kat.training.folder import STABILITY

_DESCRIPTION = """\
Trains like 'kat train' and records, every monitor.interval steps and for every GR-KAN layer, mean
and variance of what goes in and comes out, the gain realised, gradients, the range of Q, the share
of inputs outside the fit interval, drift of the coefficients, dead and exploding groups. Leaves
stability.csv, stability.html and TensorBoard scalars in the run's folder and prints a verdict.
Given the folder of a monitored run, it only writes the report again.

examples:
  kat stability --config digits
  kat stability --config digits --model.args "{mlp_init: trunc_normal}" --out runs/trunc_normal
  kat stability runs/digits --figure variance.svg
  kat train --config fashion_mnist --monitor              the same, from the other side"""


class _Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


def main(arguments: list[str]) -> int:
    """Parses the arguments, then trains under watch, or reports on a run."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    if not arguments or arguments[0].startswith("-"):
        if any(argument.startswith("--figure") for argument in arguments):
            raise InputError("--figure needs the folder of a monitored run before it")
        config = train.settings(parser, arguments)
        train.run(replace(config, monitor=replace(config.monitor, enabled=True)))
        return
    parsed = parser.parse_args(arguments)
    if parsed.figure:
        check_target(Path(parsed.figure))
    train.report(Path(parsed.run))
    if parsed.figure:
        from kat.analysis import plot_variance, read_rows

        plot_variance(read_rows(Path(parsed.run) / STABILITY), Path(parsed.figure))


def make_parser() -> Parser:
    """The parser of ``kat stability``: that of training, and what a report needs."""
    parser = train.make_training_parser("kat stability", _DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("run", nargs="?", help="the folder of a monitored run, to report on")
    parser.add_argument(
        "--figure", type=str | None, help="of a monitored run: draw variance by layer to this file"
    )
    return parser
