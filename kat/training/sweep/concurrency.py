"""How many runs of a sweep shared the machine, which slows each of them down."""

from __future__ import annotations

import json
from pathlib import Path

from kat.documents import read_json
from kat.errors import InputError
from kat.files import write_text
from kat.training.run_directory import SETTINGS

RUNS_AT_ONCE = "runs_at_once"
"""The column of a table of runs, and the entry of a record."""


def record_concurrency(path: Path, out: Path, at_once: int) -> None:
    """Records that a run begins or resumes, of so many at a time, itself included.

    Times of a resumed run include those before, and so does its record. A run that began without a
    record stays without one.

    Args:
        path: the file of the record.
        out: the run directory.
        at_once: how many runs are trained at a time.

    Raises:
        InputError: the record of a resumed run is damaged.
    """
    resumed = (out / SETTINGS).is_file()
    before = read_concurrency(path) if resumed else 1
    if before is not None:
        write_text(path, json.dumps({RUNS_AT_ONCE: max(before, at_once)}) + "\n")


def read_concurrency(path: Path) -> int | None:
    """The most runs that were trained at a time while a run was; None without a record.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return None
    record = read_json(path)
    count = record.get(RUNS_AT_ONCE) if isinstance(record, dict) else None
    if type(count) is not int or count < 1:
        raise InputError(f"{path} does not say how many runs were trained at once")
    return count
