"""Calls ``kat`` in a process of its own, with limits: what it does may be anything."""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple

import kat_command

SECONDS = 120
"""After which a call counts as one that hangs."""
MEMORY = 4 << 30
"""Bytes of data that a call may allocate."""
ERRORS = ".errors"
"""The file, in the folder of a call, of what it prints to standard error."""
CODES = (0, 1, 2, 75)
"""The exit codes that a command may have."""


class Outcome(NamedTuple):
    """What became of a call.

    Args:
        code: exit code; negative: the signal that ended it.
        err: what it printed to standard error.
    """

    code: int
    err: str

    @property
    def held(self) -> bool:
        """Whether the command did its work, or said in one line why not."""
        if self.code not in CODES or "Traceback" in self.err:
            return False
        starts = [line[:5] for line in self.err.splitlines() if line]
        if not starts:  # 'kat data check' exits with 1 when it has listed problems
            return self.code in (0, 1)
        return self.code == 0 or starts == ["kat: "]


def call(arguments: list[str], folder: Path) -> Outcome:
    """Calls ``kat`` in a child process whose working directory is ``folder``."""
    server = _server()
    server.stdin.write(json.dumps([arguments, str(folder)]) + "\n")
    code = int(server.stdout.readline())
    errors = folder / ERRORS
    err = errors.read_text(encoding="utf-8", errors="replace")
    errors.unlink()
    return Outcome(code, err)


@cache
def _server() -> subprocess.Popen:
    """A process that has imported the commands and forks one child a call.

    The process of the tests is not forked itself: an earlier test may have left threads, and a lock
    or a pool of theirs (numba's OpenMP) holds up a child for ever. The server ends with its stdin.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "tests.isolated"],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _serve() -> None:
    """Forks a child for each line of stdin, and prints its exit code."""
    for name in (
        "ablate",
        "data.check",
        "eval",
        "plot.activations",
        "plot.curves",
        "report",
        "train",
    ):
        importlib.import_module(f"kat.cli.{name}")
    gc.collect()  # while a child parses its options, a collection makes Python 3.11's ast fail
    for line in sys.stdin:
        arguments, folder = json.loads(line)
        process = os.fork()
        if process == 0:
            os._exit(_child(arguments, Path(folder)))
        sys.stdout.write(f"{_wait(process)}\n")
        sys.stdout.flush()


def _child(arguments: list[str], folder: Path) -> int:
    os.setsid()  # so that its children can be ended with it
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere, file = os.open(os.devnull, os.O_RDWR), os.open(ERRORS, os.O_WRONLY | os.O_CREAT)
    for number, target in ((0, nowhere), (1, nowhere), (2, file)):
        os.dup2(target, number)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    try:
        return kat_command.main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 111
    finally:
        sys.stderr.flush()


def _wait(process: int) -> int:
    """The exit code of a child, which is ended if it takes too long."""
    stop = time.monotonic() + SECONDS
    while time.monotonic() < stop:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -signal.SIGALRM


if __name__ == "__main__":
    _serve()
