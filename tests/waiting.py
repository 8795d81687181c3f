"""Waiting for what another process does, which can only be looked at again and again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 120
"""Seconds, on a machine that is busy."""


def wait_until(true: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Returns when something is true; fails where that takes too long, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        if process is not None and process.poll() is not None:
            assert true(), f"the process ended before, with {process.returncode}"
        time.sleep(0.02)
