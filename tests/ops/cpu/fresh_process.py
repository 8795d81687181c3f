"""Processes that have to build the CPU library, or run without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_SCRIPT = """
import warnings, torch, kat
from kat.ops.cpu import build
from kat.ops.cpu.library import Library, find_library
build.PREBUILT = build.Path("none")
x = torch.linspace(-3, 3, 64).reshape(4, 16)
a, b = torch.linspace(-1, 1, 6)[None], torch.linspace(-0.5, 1, 32).reshape(8, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = kat.rational(x, a, b)
    kat.rational(x.requires_grad_(), a, b).sum().backward()
torch.testing.assert_close(y, kat.rational(x, a, b, impl="reference").detach())
try:
    kat.rational(x, a, b, impl="cpu")
except RuntimeError as error:
    print("refused:", error)
for warning in caught:
    print("warned:", warning.message)
print("kernel" if isinstance(find_library(), Library) else "reference")
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    """A process with a cache of its own, where nothing is prebuilt."""
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "KAT_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What it printed: refusal and warning, if any, and what ran."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.splitlines()


def without_library(cache: Path, **environment: str) -> tuple[str, str]:
    """The refusal and the one warning of a process that cannot have the library."""
    refused, warned, ran = finish(start(cache, **environment))
    assert ran == "reference"
    return refused, warned
