"""``kat verify``: every backend against exact values."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from kat.analysis.reports.verification import write_verification_report
from kat.analysis.verify.backends import choose_backends, present_backends
from kat.analysis.verify.cases import DTYPES, QUICK, Grid, check_grid
from kat.analysis.verify.model_cases import cases_of_checkpoint
from kat.analysis.verify.output import print_verification, write_json
from kat.analysis.verify.run import Job, case_jobs, verify
from kat.cli.parsing import Parser, run_command
from kat.data import DataConfig
from kat.errors import InputError
from kat.files import check_target

FAILED = 1
_GRID_OPTIONS = ("quick", "forms", "degrees", "largest", "seed")


def main(arguments: list[str]) -> int:
    """Parses the arguments, verifies, prints a table; 1 if anything failed."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    parser = make_parser()
    given = parser.parse_args(arguments)
    _refuse_what_does_nothing(given, parser.get_defaults())
    parsed = parser.instantiate(given)
    for path in (parsed.json, parsed.html):
        if path:
            check_target(Path(path))
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("forms", "degrees", "dtypes", "largest", "seed")
        if (value := getattr(parsed, name)) is not None
    }
    grid = replace(QUICK if parsed.quick else Grid(), **chosen)
    check_grid(grid)
    backends, absent = present_backends()
    backends = choose_backends(parsed.backends, backends, absent)
    what: Grid | list[Job] = grid
    inputs: dict[str, tuple[float, float]] = {}
    if parsed.checkpoint:
        data = DataConfig(**vars(parsed.data)) if parsed.data.name else None
        cases, inputs = cases_of_checkpoint(Path(parsed.checkpoint), data, grid.dtypes)
        what = case_jobs(cases)
    found = verify(
        what,
        backends,
        interpreter=parsed.interpreter,
        compiled=not (parsed.quick or parsed.backends),
        track=_progress if parsed.progress else iter,
    )
    found.absent.update(absent)
    found.inputs.update(inputs)
    print_verification(found)
    if parsed.json:
        write_json(found, Path(parsed.json))
    if parsed.html:
        write_verification_report(found, Path(parsed.html))
    return 0 if found.passed else FAILED


def make_parser() -> Parser:
    """The parser of ``kat verify``."""
    parser = Parser(
        prog="kat verify",
        description=(
            "Compares every backend on this machine with exact values: the rational function, its"
            " gradients and its second derivatives, over forms, degrees, dtypes, coefficients, |x|"
            " from 0 to the largest number of each dtype, infinity and NaN too, and output"
            " gradients of all sizes; then the compiled operator with the plain one. Exit code 0"
            " if everything is right to rounding, 1 if anything is not. Examples:"
            " 'kat verify --html verify.html' (everything, about a minute);"
            " 'kat verify --quick' (seconds); 'kat verify --largest 1e3' (inputs that networks"
            " see); 'kat verify --checkpoint runs/digits --data.name digits' (a trained model's own"
            " coefficients on what its rationals see of real images)."
        ),
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part of everything, in seconds"
    )
    parser.add_argument(
        "--interpreter",
        action="store_true",
        help="also run the GPU kernels on the CPU, in Triton's interpreter, over a small part; with"
        " --checkpoint over all of it, which takes minutes",
    )
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        help="verify this model's rationals alone: a run's folder, its model folder, or a .ckpt;"
        " goes with --dtypes, --backends, --interpreter and --data.*",
    )
    parser.add_argument("--backends", type=list[str] | None, help="these alone, such as '[cpu]'")
    parser.add_argument("--forms", type=list[str] | None, help="of A and B")
    parser.add_argument(
        "--degrees", type=list[tuple[int, int]] | None, help="such as '[[5, 4], [3, 2]]'"
    )
    parser.add_argument("--dtypes", type=list[str] | None, help=f"of {', '.join(DTYPES)}")
    parser.add_argument(
        "--largest", type=float | None, help="the largest |x|; by default all there are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of x and of random coefficients")
    parser.add_argument("--json", type=str | None, help="write all errors to this file")
    parser.add_argument("--html", type=str | None, help="write a report to this file, one page")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    skip = {"image_size", "channels", "interpolation", "crop_pct", "mean", "std", "train_split"}
    parser.add_class_arguments(DataConfig, "data", skip=skip)
    parser.set_defaults({"data.name": ""})
    return parser


def _refuse_what_does_nothing(parsed: Namespace, default: Namespace) -> None:
    """Options of the grid with a model, and of a model's images without one."""
    for name in _GRID_OPTIONS:
        if parsed.checkpoint and getattr(parsed, name) != getattr(default, name):
            raise InputError(
                f"--{name} and --checkpoint exclude each other: a model brings its own forms,"
                " degrees and inputs; --dtypes and --backends choose among the rest"
            )
    for name, value in vars(parsed.data).items():
        if not parsed.checkpoint and value != getattr(default.data, name):
            raise InputError(f"--data.{name} does nothing without --checkpoint")


def _progress(jobs: Sequence[Job]) -> Iterable[Job]:
    return track(jobs, "comparing", console=Console(file=sys.stderr), transient=True)
