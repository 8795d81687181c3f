"""Calls ``kat`` as a user does, within this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import kat_command

ALL_COMMANDS = """
import contextlib, io, json, sys
import kat_command
found = {}
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = kat_command.main(line)
        except SystemExit as error:  # after --help
            code = error.code
    heavy = sorted({"torch", "timm", "numpy"} & {*sys.modules})
    found[" ".join(line)] = code, out.getvalue(), err.getvalue(), heavy
print(json.dumps(found))
"""
"""Calls commands in a process of its own: exit code, output, errors, and what is imported then."""
QUICK = ["--no-progress", "--limit_train_batches", "2", "--limit_val_batches", "2"]
"""Options of a training that is over soon."""


def run(*arguments: object) -> int:
    """Runs ``kat`` with these arguments and returns its exit code."""
    return kat_command.main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command prints; it must exit with 2."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kat: ")
    assert captured.err.count("\n") == 1
    return captured.err


def grid_writer(folder: Path, content: Mapping[str, Any]) -> Callable[..., Path]:
    """Writes grids of ``kat ablate`` that differ from ``content`` in some entries."""

    def write(name: str = "small", **changes: Any) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return path

    return write
