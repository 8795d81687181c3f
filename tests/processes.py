"""``kat`` in a process of its own: started, watched, waited for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 300
"""Seconds, on a machine that is busy."""
IMPORTED_BY_RUNS = ("tests.training.killed_runs", "kat.training.engine.trainer", "sklearn.datasets")
"""Modules that take a training run on digits three seconds to import."""


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts ``kat`` with these arguments; its stdout and stderr are pipes."""
    command = [sys.executable, "-m", "kat_command", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def wait_until(true: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Polls a condition until it is true; fails on a timeout, or if the process has ended."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        if process is not None and process.poll() is not None:
            assert true(), f"the process ended before, with {process.returncode}"
        time.sleep(0.02)


def children(parent: int) -> list[int]:
    """The processes that a process has started; needs Linux's /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
