"""Any exception of a command is one line and an exit code."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kat.cli.errors import run_command
from kat.errors import CheckpointFailed, InputError, Interrupted
from tests.processes import start


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\nvalue"), 2, "bad value"),
        (CheckpointFailed("full"), 1, "full"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied"),
        (Interrupted("saved"), 75, "saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_not_a_fault_of_kat_is_one_line(capsys, error, code, line):
    assert run_command(failing(error)) == code
    assert capsys.readouterr().err == f"kat: {line}\n"


def test_an_unexpected_error_is_one_line_with_the_file_of_its_traceback(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 1  # not of stdout
    assert "BrokenPipeError" in capsys.readouterr().err
    assert run_command(failing(ZeroDivisionError("by\nzero"))) == 1
    line = r"kat: ZeroDivisionError: by; the traceback is in (\S+)\n"
    kept = Path(re.fullmatch(line, capsys.readouterr().err)[1]).read_text()
    assert kept.startswith("kat ")
    assert "in command" in kept
    assert run_command(failing(ZeroDivisionError()), ["--debug"]) == 1
    assert capsys.readouterr().err.startswith("Traceback")


def test_the_traceback_of_a_run_is_in_its_directory(capsys, tmp_path):
    (tmp_path / "run.yaml").touch()
    error = ZeroDivisionError("zero")
    error.run_directory = str(tmp_path)
    assert run_command(failing(error)) == 1
    kept = tmp_path / "traceback.txt"
    line = f"kat: ZeroDivisionError: zero; the traceback is in {kept}\n"
    assert capsys.readouterr().err == line
    assert "in command" in kept.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--help"], pytest.param(["flops", "models", "kat_micro"], marks=pytest.mark.release)],
)
def test_a_reader_that_goes_away_ends_a_command_quietly(arguments):
    process = start(*arguments, bufsize=1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ["--help", pytest.param("flops layers 8 8", marks=pytest.mark.release)]
)
def test_a_command_whose_standard_output_is_closed_prints_nothing(arguments):
    command = f"exec {sys.executable} -m kat_command {arguments} >&-"
    ended = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_standard_output_is_one_line():
    command = [sys.executable, "-m", "kat_command", "flops", "layers", "8", "8"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert (ended.stderr.count("No space left"), ended.stderr.count("\n")) == (1, 1)


@pytest.mark.slow
def test_another_module_in_the_place_of_kat_is_one_line(tmp_path):
    """As PYTHONPATH=. has it in a project with a kat.py, which is not run."""
    (tmp_path / "kat.py").write_text("print('run')")
    code = "import sys, kat_command; sys.exit(kat_command.main(['compat', '.']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("kat: ")
    assert str(tmp_path / "kat.py") in done.stderr
