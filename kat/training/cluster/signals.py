"""Signals that ask a run to stop, from a cluster scheduler or the keyboard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from kat.processes import REQUESTS_TO_STOP

REQUEUE = signal.SIGUSR1
"""The signal that SLURM sends before the time limit: save a checkpoint and requeue the job."""


class StopRequest:
    """Records SIGTERM, SIGINT and SIGUSR1; the training loop stops after the current step.

    A second SIGINT raises KeyboardInterrupt immediately.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def watch(self) -> None:
        """Install the signal handlers; do nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in REQUESTS_TO_STOP}

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def requeue_slurm_job() -> str:
    """Requeue the SLURM job of this process; return a message with the outcome."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "not requeued: this is not a SLURM job"
    if shutil.which("scontrol") is None:
        return f"job {job} was not requeued: scontrol is not installed"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"job {job} was not requeued: {' '.join(done.stderr.split())}"
    return f"job {job} requeued"
