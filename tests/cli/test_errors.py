"""Whatever escapes a command is one line and an exit code."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kat.cli.errors import run_command
from kat.errors import CheckpointFailed, InputError, LoaderFailed, OutputFailed
from tests.processes import start


def failing(error):
    def command():
        raise error

    return command


_KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
"""As torch raises it by a signal handler."""
_LOST = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:28288")
"""As gloo raises it."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\nvalue"), 2, "bad value"),
        (CheckpointFailed("full"), 1, "full"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "x: File name too long"),
        (MemoryError(), 1, "there is not enough memory: MemoryError"),
        (_KILLED, 1, str(LoaderFailed(str(_KILLED)))),
        (_LOST, 1, f"the connection to the other processes is lost: {_LOST}"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_not_a_fault_of_kat_is_one_line(capsys, error, code, line):
    assert run_command(failing(error)) == code
    assert capsys.readouterr().err == f"kat: {line}\n"


def test_a_broken_pipe_that_is_not_standard_output_is_a_fault(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 1
    assert "a fault of kat's own: BrokenPipeError" in capsys.readouterr().err


def test_a_fault_of_kat_is_one_line_with_the_file_of_its_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(failing(ZeroDivisionError("by\nzero"))) == 1
    line = capsys.readouterr().err
    match = re.fullmatch(
        r"kat: a fault of kat's own: ZeroDivisionError: by; the traceback is in (\S+);"
        r" please report it\n",
        line,
    )
    kept = Path(match[1]).read_text()
    assert kept.startswith("kat ")
    assert "in command" in kept
    assert run_command(failing(ZeroDivisionError()), debug=True) == 1
    assert capsys.readouterr().err.startswith("Traceback")


def test_answers_that_cannot_be_written_are_printed(capsys):
    full = OutputFailed("x.json", OSError(errno.ENOSPC, "No space left on device"), "[1]\n")
    assert run_command(failing(full), quiet=True) == 1
    printed = capsys.readouterr()
    assert printed.out == "[1]\n"
    assert printed.err == (
        "kat: x.json cannot be written: No space left on device; its contents are on standard"
        " output\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("flops", "models"), ("train", "--help")])
def test_a_reader_that_goes_away_ends_a_command_quietly(arguments):
    process = start(*arguments, bufsize=1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_standard_output_is_one_line():
    command = [sys.executable, "-m", "kat_command", "flops", "models"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "kat: No space left on device\n"
