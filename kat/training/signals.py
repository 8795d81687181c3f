"""Requests to stop: by the scheduler of a cluster, by a user at the keyboard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

REQUEUE = signal.SIGUSR1
"""What SLURM is told to send before the time limit: save, and put the job back into the queue."""
STOP = (signal.SIGTERM, signal.SIGINT, REQUEUE)


class StopRequest:
    """Notes SIGTERM, SIGINT and SIGUSR1, for the training loop to act on after its step.

    A second SIGINT acts at once, as it would without this.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def watch(self) -> None:
        """Takes the place of the handlers that are there; in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in STOP}

    def release(self) -> None:
        """Puts the handlers of before back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def requeue_slurm_job() -> str:
    """Has SLURM start the job of this process again, and says what came of it."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "not requeued: this is no SLURM job"
    if shutil.which("scontrol") is None:
        return f"job {job} was not requeued: there is no scontrol here"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"job {job} was not requeued: {' '.join(done.stderr.split())}"
    return f"job {job} requeued"
