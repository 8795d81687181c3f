"""Whatever escapes a command becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

import torch

from kat.errors import (
    BackendUnavailable,
    CheckpointFailed,
    ExportFailed,
    InputError,
    Interrupted,
    LoaderFailed,
    OutputFailed,
    TrainingDiverged,
    first_line,
    worker_has_ended,
)
from kat.text import warn
from kat.version import __version__

USAGE_ERROR, FAILED = 2, 1
RUN_AGAIN = 75
"""A run that was asked to stop and can be resumed: EX_TEMPFAIL of sysexits.h."""
INTERRUPTED = 130
"""Ctrl-C, as shells report it."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE)
"""What the system lacks; the exit code is 1."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
"""What the system refuses to do with a path; the exit code is 2."""
_PRINTED = 1 << 24
"""The most characters of a file that cannot be written that are printed instead."""


def run_command(body: Callable[[], int | None], quiet: bool = False, debug: bool = False) -> int:
    """Runs a command, whose errors are one line each, and returns its exit code.

    Args:
        body: returns an exit code; None is 0.
        quiet: discard what it prints to standard output.
        debug: show the traceback of an error.
    """
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if quiet else nullcontext():
            return body() or 0
    except KeyboardInterrupt:
        warn("kat: interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_broken():
            raise
        if debug:
            traceback.print_exc()
        if isinstance(error, OutputFailed) and len(error.content) <= _PRINTED:
            sys.stdout.write(error.content)
        line, code = _explained(error)
        warn(f"kat: {' '.join(line.split())}")
        return code


_FAILURES = (BackendUnavailable, CheckpointFailed, ExportFailed, LoaderFailed, TrainingDiverged)
"""The errors of exit code 1 whose messages are for users."""


def _explained(error: Exception) -> tuple[str, int]:
    """The line for an error, and the exit code."""
    if isinstance(error, InputError):
        return str(error), USAGE_ERROR
    if isinstance(error, Interrupted):
        return str(error), RUN_AGAIN
    if isinstance(error, _FAILURES):
        return str(error), FAILED
    if isinstance(error, OutputFailed):
        follows = "; its contents are on standard output" if len(error.content) <= _PRINTED else ""
        return f"{error.filename} cannot be written: {error.strerror}{follows}", FAILED
    if isinstance(error, OSError) and error.errno in (*_REFUSED, *_NO_ROOM):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", FAILED if error.errno in _NO_ROOM else USAGE_ERROR
    if isinstance(error, RuntimeError) and worker_has_ended(error):
        return str(LoaderFailed(first_line(error))), FAILED
    if isinstance(error, RuntimeError) and _lost_connection(error):
        return f"the connection to the other processes is lost: {first_line(error)}", FAILED
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"there is not enough memory: {first_line(error)}", FAILED
    fault = f"a fault of kat's own: {type(error).__name__}: {first_line(error)}"
    return f"{fault}; {_kept_traceback(error)}; please report it", FAILED


def _stdout_is_broken() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        pipe = select.poll()
        pipe.register(sys.stdout.fileno(), 0)
    except OSError:
        return False
    return bool(pipe.poll(0))


def _lost_connection(error: RuntimeError) -> bool:
    """Whether an error of NCCL, gloo or their store is about the connection between processes."""
    if torch.distributed.is_available() and isinstance(error, torch.distributed.DistError):
        return True
    return any(words in str(error) for words in ("closed by peer", "reset by peer"))


def _kept_traceback(error: Exception) -> str:
    """Writes the traceback of an error to a file, and says where it is."""
    text = "".join(traceback.format_exception(error))
    about = f"kat {__version__}, torch {torch.__version__}, {sys.version}\n{shlex.join(sys.argv)}\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="kat-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(about + text)
    except OSError:
        return "--debug shows the traceback"
    return f"the traceback is in {file.name}"
