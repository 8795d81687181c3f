"""The options that the commands of all domains have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch


def make_parser(
    doc: str, name: str, tasks: list[str], arms: list[str], steps: int
) -> argparse.ArgumentParser:
    """The parser of a domain; arguments as in :class:`runner.Domain`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    csv = Path("runs/domains") / f"{name}.csv"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    for option, known in {"task": tasks, "arm": arms}.items():
        text = f"of {', '.join(known)}"
        add(
            f"--{option}",
            nargs="+",
            metavar=option.upper(),
            choices=known,
            default=known,
            help=text,
        )
    seeds = "of the tests, 1 to 5 by default; seed 0 chooses the rates"
    add("--seed", nargs="+", type=_count, default=[1, 2, 3, 4, 5], help=seeds)
    of_steps = "of the optimizer, %(default)s by default; rows of as many are compared"
    add("--steps", type=_count, default=steps, help=of_steps)
    file = "one row per run, %(default)s by default; a run that has its row is not made again"
    add("--csv", type=Path, default=csv, help=file)
    where = "cuda by default where there is one, else cpu"
    add("--device", type=_device, default=torch.device(device), help=where)
    add("--table", action="store_true", help="make no runs: print the tables of the rows")
    return parser


def check_writable(csv: Path) -> None:
    """Makes the folder of a CSV file; exits with one line if nothing can be written there."""
    try:
        csv.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--csv {csv}: {error.strerror}") from None
    if csv.is_dir() or not os.access(csv if csv.exists() else csv.parent, os.W_OK):
        raise SystemExit(f"--csv {csv}: this is no file that can be written")
    if not os.access(csv.parent, os.W_OK):
        raise SystemExit(f"--csv {csv}: checkpoints cannot be written beside it")


def _count(text: str) -> int:
    """A number of steps, or a seed of tests, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text}")
    return int(text)


def _device(text: str) -> torch.device:
    """A device that is there, for argparse."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        problem = str(error).partition(". ")[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {problem}") from None
