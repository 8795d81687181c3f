"""Runs a step of the report: in processes of its own, which end with their time."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import timing
import torch

from gpu.page import STATES, Result, Row
from gpu.plan import ROOT, Plan
from gpu.stand_in import StandIn
from kat.errors import first_line
from kat.machine import cores
from kat.training.cluster.signals import StopRequest

Emit = Callable[[Row], None]


class Skipped(Exception):
    """A step that cannot run here; the message says what it needs."""


@dataclass(frozen=True)
class Step:
    """One part of the report.

    Args:
        name: in the files.
        title: on the page.
        run: is given the plan, what takes a row as soon as there is one, and which share of the
            work it does, of how many.
        weight: its share of the time.
        shares: the most processes that share the work.
        optional: its failure is reported, and does not fail the report.
    """

    name: str
    title: str
    run: Callable[[Plan, Emit, tuple[int, int]], None]
    weight: int
    shares: int = 1
    optional: bool = False


def run(step: Step, plan: Plan, result: Result, deadline: float, stop: StopRequest) -> None:
    """Runs a step in processes of its own until it ends, its time is up, or a signal stops it."""
    begin = time.monotonic()
    result.budget = deadline - begin
    exclusive = not plan.stand_in and compute_mode() == "Exclusive_Process"
    count = 1 if exclusive else min(step.shares, cores())
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{number}.jsonl" for number in range(count)]
        fork = multiprocessing.get_context("fork")  # the imports are not repeated
        children = [
            fork.Process(target=child, args=(step, plan, (number, count), file, stop))
            for number, file in enumerate(files)
        ]
        try:
            for process in children:
                process.start()
            wait(children, deadline, stop)
            outcomes = [
                outcome(process, read(file)[1], stop)
                for process, file in zip(children, files, strict=True)
            ]
        finally:
            kill(children)
        result.state, result.error = min(outcomes, key=lambda o: STATES.index(o[0]))
        result.rows = [row for file in files for row in read(file)[0]]
        result.seconds = time.monotonic() - begin


def compute_mode() -> str:
    """The mode of the GPU; in ``Exclusive_Process`` it takes one process at a time."""
    return output("nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader")


def output(*command: str) -> str:
    """The first line that a program prints; empty where there is no such program or line."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0] if done.returncode == 0 else ""


def wait(children: list[Any], deadline: float, stop: StopRequest) -> None:
    """Waits until all have ended, or none of them may run any longer."""
    running = {process.sentinel: process for process in children}
    while running and stop.signal is None and (left := deadline - time.monotonic()) > 0:
        for sentinel in connection.wait(list(running), min(left, 0.2)):
            running.pop(sentinel).join()


def child(step: Step, plan: Plan, share: tuple[int, int], path: Path, stop: StopRequest) -> None:
    """A process of a step: writes its rows as they come, then how it ended."""
    os.setsid()  # so that its children can be ended with it
    stop.release()
    os.environ.update(plan.environment)
    if plan.stand_in:
        timing.ACCELERATORS[plan.device] = StandIn()
        timing.QUEUED = 1
        torch.set_num_threads(1)
        torch.compiler.set_stance("force_eager")  # compiling for the CPU takes minutes
    with path.open("w") as file:

        def write(kind: str, content: object) -> None:
            file.write(json.dumps([kind, content]) + "\n")
            file.flush()

        try:
            step.run(plan, lambda row: write("row", finite(row)), share)
            write("end", ("done", ""))
        except Skipped as reason:
            write("end", ("skipped", str(reason)))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            write("end", ("failed", f"{type(error).__name__}: {first_line(error)}"))


def finite(row: Row) -> Row:
    """A row for JSON: NaN is left out, infinities are texts."""
    pairs = ((n, v) for n, v in row.items() if not (isinstance(v, float) and math.isnan(v)))
    return {n: str(v) if isinstance(v, float) and math.isinf(v) else v for n, v in pairs}


def read(path: Path) -> tuple[list[Row], list[str] | None]:
    """The rows of a process of a step so far, and how it ended, if it did."""
    rows, end = [], None
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # killed while it wrote
            kind, content = json.loads(line)
            if kind == "row":
                rows.append(content)
            else:
                end = content
    return rows, end


def outcome(process: BaseProcess, end: list[str] | None, stop: StopRequest) -> tuple[str, str]:
    """The state of a process of a step, and its first error line."""
    if end is not None:
        return end[0], end[1]
    if process.exitcode is not None:
        return "failed", f"the process ended with exit code {process.exitcode}"
    if stop.signal is not None:
        return "stopped", stop.signal.name
    return "out of time", "the rows so far are kept"


def kill(children: list[Any]) -> None:
    """Ends the processes of a step, and those that they have started."""
    for process in children:
        if process.pid is not None and process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
