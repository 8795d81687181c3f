"""The handler of all commands: any exception becomes one line and an exit code."""

from __future__ import annotations

import errno
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from kat.errors import Failed, InputError, first_line
from kat.text import warn
from kat.version import __version__

FAILED, USAGE_ERROR, STOPPED = 1, 2, 75
INTERRUPTED, BROKEN_PIPE = 130, 141
"""Ctrl-C and SIGPIPE, as shells report them: 128 and the number of the signal."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE)
"""Resources that the system lacks; the exit code is 1. Other errors of a file are bad input."""


def run_command(body: Callable[[], int | None], arguments: Sequence[str] = ()) -> int:
    """Run a command, whose errors are one line each, and return its exit code.

    Args:
        body: returns an exit code; None is 0.
        arguments: of the command; ``--debug`` shows the traceback of an error.
    """
    try:
        return body() or 0
    except KeyboardInterrupt:
        warn("kat: interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_broken():
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        line, code = _explained(error)
        warn(f"kat: {' '.join(line.split())}")
        return code


def _explained(error: Exception) -> tuple[str, int]:
    """Return the line for an error, and the exit code."""
    if isinstance(error, InputError | Failed):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        no_room = error.errno in _NO_ROOM
        if no_room or error.filename:
            where = f"{error.filename}: " if error.filename else ""
            return where + error.strerror, FAILED if no_room else USAGE_ERROR
    kept = _keep_traceback(error)
    where = f"the traceback is in {kept}" if kept else "add --debug for the traceback"
    return f"{type(error).__name__}: {first_line(error)}; {where}", FAILED


def _keep_traceback(error: Exception) -> str | None:
    """Write the traceback of an error to a file; return its path, or None if none can be written.

    The file is in the run directory, the attribute ``run_directory`` of the error, or temporary.
    """
    from importlib.metadata import version  # slow to import

    text = f"kat {__version__}, torch {version('torch')}, {sys.version}\n{shlex.join(sys.argv)}\n"
    content = (text + "".join(traceback.format_exception(error))).encode("utf-8", "replace")
    path = Path(getattr(error, "run_directory", ""), "traceback.txt")
    try:
        if path.with_name("run.yaml").is_file():
            path.write_bytes(content)
            return str(path)
        with tempfile.NamedTemporaryFile(prefix="kat-", suffix=".txt", delete=False) as file:
            file.write(content)
        return file.name
    except OSError:
        return None


def _stdout_is_broken() -> bool:
    """Return True if standard output is a pipe that nobody reads any more."""
    try:
        pipe = select.poll()
        pipe.register(sys.stdout.fileno(), 0)
    except OSError:
        return False
    return bool(pipe.poll(0))
