"""What the benchmarks share: taking turns, the machine's description, tables as text and CSV."""

from __future__ import annotations

import csv
import ctypes
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed

import kat
from kat.files import replacing
from kat.machine import processor
from kat.training.record.provenance import commit

QUEUED = 10
ENOUGH = 20.0
"""Milliseconds of work in a row beside which starting it does not count."""
ACCELERATORS: dict[str, Any] = {"cuda": torch.cuda}
"""By device, what has a clock and a memory of its own: torch.cuda, or what stands in for it."""


def keep_freed_memory() -> None:
    """Sets glibc's M_MMAP_THRESHOLD (-3) and M_TRIM_THRESHOLD (-1), where there is a glibc.

    Otherwise large arrays are unmapped and mapped anew each time, and page faults swamp what is
    measured, for all candidates alike.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for option in (-3, -1):
        if mallopt is not None:
            mallopt(option, 2**31 - 1)


def take_turns(
    steps: dict[str, Callable[[], None]],
    seconds: float,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each step, at least 5 times each, after one untimed round.

    Every round has an order of its own, and no step runs right after itself, since what ran before
    decides what is left in the caches; other work on the machine hits all steps alike.
    ``clock`` gives seconds: wall time, or with ``time.process_time`` those this process computed.
    On a GPU it is the GPU's own that counts, over up to ``QUEUED`` calls in a row, so that it need
    not wait for Python to start the next.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    calls = {name: _calls(step, device, clock) for name, step in steps.items()}
    order, rounds = list(steps), 0
    end = time.perf_counter() + seconds
    draw = random.Random(0)
    while rounds < 5 or time.perf_counter() < end:
        for name in order:
            times[name].append(_milliseconds(steps[name], device, clock, calls[name]))
        order = _next_order(order, draw)
        rounds += 1
    return times


def _next_order(order: list[str], draw: random.Random) -> list[str]:
    """Another order, of which the first is not the last of this one."""
    if len(order) < 2:
        return order
    first = draw.choice(order[:-1])
    rest = [name for name in order if name != first]
    draw.shuffle(rest)
    return [first, *rest]


def _calls(step: Callable[[], None], device: str, clock: Callable[[], float]) -> int:
    """How many calls in a row are timed: one on the CPU, on a GPU enough to keep it at work."""
    if device not in ACCELERATORS:
        return 1
    return max(1, min(QUEUED, round(ENOUGH / _milliseconds(step, device, clock, 1))))


def _milliseconds(
    step: Callable[[], None], device: str, clock: Callable[[], float], calls: int
) -> float:
    if device not in ACCELERATORS:
        start = clock()
        step()
        return 1e3 * (clock() - start)
    accelerator = ACCELERATORS[device]
    start, end = (accelerator.Event(enable_timing=True) for _ in range(2))
    accelerator.synchronize()
    start.record()
    for _ in range(calls):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median of each candidate's times."""
    return {name: statistics.median(values) for name, values in times.items()}


def header(device: str) -> str:
    """Versions and commit, machine and threads, in two lines."""
    where = processor()
    if device == "cuda":
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return (
        f"kat {kat.__version__}, torch {torch.__version__}, Python {platform.python_version()},"
        f" {platform.system()} {platform.machine()}, commit {commit()}\n"
        f"{where}, {torch.get_num_threads()} threads"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    """Prints rows under their columns; numbers to three digits."""
    cells = [list(columns), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def write_csv(
    path: Path, device: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]
) -> None:
    """Writes the table, with the command and the header as comments above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("w", newline="") as file:
        for line in (f"python {' '.join(sys.argv)}", *header(device).splitlines()):
            file.write(f"# {line}\n")
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([[_text(value) for value in row] for row in rows])


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "-" if value != value else f"{value:.4g}"
