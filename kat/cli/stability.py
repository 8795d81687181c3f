"""``kat stability``: a training run that is watched, and the report of what was seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kat.cli import train
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.training.run_directory import STABILITY

_DESCRIPTION = """\
Trains like 'kat train' and records, every monitor.every_n_steps steps and for every GR-KAN layer,
mean and variance of what goes in and comes out, the gain realised, gradients, the range of Q, the
share of inputs outside the fit interval, drift of the coefficients, dead and exploding groups.
Leaves stability.csv, stability.html and TensorBoard scalars in the run's folder and prints a
verdict.
Given the folders of monitored runs, it only writes their reports again; --figures draws them.

examples:
  kat stability --config digits
  kat stability --config digits --model.args "{mlp_init: trunc_normal}" --out runs/trunc_normal
  kat stability runs/digits --figures figures
  kat stability runs/digits runs/trunc_normal --figures figures        side by side, on one scale
  kat train --config fashion_mnist --monitor              the same, from the other side"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, then trains under watch, or reports on a run."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    if not arguments or arguments[0].startswith("-"):
        if any(argument.startswith("--figures") for argument in arguments):
            raise InputError("--figures needs the folder of a monitored run before it")
        config = train.settings(parser, arguments)
        train.run(replace(config, monitor=replace(config.monitor, enabled=True)))
        return
    parsed = parser.parse_args(arguments)
    _refuse_training_options(arguments)
    runs = [Path(run) for run in parsed.runs]
    if parsed.figures:
        _draw(runs, Path(parsed.figures))
    for run in runs:
        train.report(run)


def _refuse_training_options(arguments: list[str]) -> None:
    options = [a.split("=")[0] for a in arguments if a.startswith("-")]
    ignored = [option for option in options if option != "--figures"]
    if ignored:
        raise InputError(
            f"{ignored[0]} is an option of training, and the folder of a run is only reported on:"
            " leave out the folder to train, or the option to report"
        )


def _draw(runs: list[Path], folder: Path) -> None:
    from kat.analysis import plot_stability, read_rows

    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(runs) else [str(run) for run in runs]
    if len(set(labels)) < len(runs):
        raise InputError(f"a run is given twice: {', '.join(labels)}")
    rows = {label: read_rows(run / STABILITY) for label, run in zip(labels, runs, strict=True)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--figures {folder} is no folder that can be written: {error}") from None
    plot_stability(rows if len(rows) > 1 else {"": rows[labels[0]]}, folder)


def make_parser() -> Parser:
    """The parser of ``kat stability``: that of training, and what a report needs."""
    parser = train.make_training_parser("kat stability", _DESCRIPTION, formatter_class=Formatter)
    parser.add_argument("runs", nargs="*", help="folders of monitored runs, to report on")
    parser.add_argument(
        "--figures",
        type=str | None,
        help="of monitored runs: draw variance by layer, and the heat maps, into this folder",
    )
    return parser
