"""Train several runs in parallel, each in its own process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from kat import processes
from kat.errors import CheckpointFailed, InputError, Interrupted, TrainingDiverged, first_line
from kat.files import open_to_append
from kat.locks import locked
from kat.machine import cores
from kat.text import warn
from kat.training.cluster.signals import StopRequest
from kat.training.config import TrainConfig
from kat.training.engine.trainer import train
from kat.training.evaluation.evaluate import write_test
from kat.training.record.run_directory import SUMMARY, TEST

_STOPPED, _FAILED = 75, 1


@dataclass
class Job:
    """A run to train.

    Args:
        config: settings of the run; an unfinished run in ``config.out`` is resumed.
        log: file to which the output of the run is appended.
        test: the finished run is tested by :func:`kat.training.evaluation.evaluate.write_test`.
    """

    config: TrainConfig
    log: Path
    test: bool = False

    @property
    def trained(self) -> bool:
        """Return True if the run has a result."""
        return (Path(self.config.out) / SUMMARY).is_file()

    @property
    def done(self) -> bool:
        """Return True if nothing is left to do."""
        return self.trained and (not self.test or (Path(self.config.out) / TEST).is_file())


def slots(jobs: int | None, threads: int, *, on_cpu: bool = False) -> int:
    """Return how many runs to train at once: one per GPU, or as many as the CPU cores allow."""
    gpus = 0 if on_cpu else torch.cuda.device_count()
    return jobs or gpus or max(1, cores() // threads)


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    threads: int,
    started: Callable[[Job], None],
    ended: Callable[[Job, str], None],
) -> None:
    """Train all runs, several at a time.

    A run that fails does not stop the others. Each run holds a lock; if a process of an earlier
    call still trains the same run, the new one waits for it. If this process ends, for whatever
    reason, its runs save a checkpoint and stop.

    Args:
        jobs: the runs, in the order in which they start.
        at_once: number of runs at a time; they are distributed over the GPUs in turn.
        threads: number of CPU threads of each run.
        started: called with each job when it starts.
        ended: called with each job when it ends, and with the error; empty if the run finished.

    Raises:
        Interrupted: a signal asked to stop; all runs have saved a checkpoint.
    """
    context: Any = _context()
    waiting, running = list(jobs), dict[Any, tuple[Any, Job, int]]()
    free = list(range(at_once))
    request = StopRequest()
    request.watch()
    try:
        while running or (waiting and request.signal is None):
            while waiting and free and request.signal is None:
                job, slot = waiting.pop(0), free.pop(0)
                arguments = job, _environment(slot), threads
                process = context.Process(target=_work, args=arguments)
                with processes.requests_to_stop_blocked():
                    process.start()
                running[process.sentinel] = process, job, slot
                started(job)
            for sentinel in wait(list(running), timeout=0.5):
                process, job, slot = running.pop(sentinel)
                process.join()
                free.append(slot)
                if process.exitcode == 0 or request.signal is None:
                    ended(job, _error(process.exitcode, job.log))
            if request.signal is not None:
                break
    finally:  # those that still run save a checkpoint, also if this call fails
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
        request.release()
    if request.signal is not None:
        raise Interrupted(f"stopped by {request.signal.name}; run the command again to resume")


def _context() -> BaseContext:
    """Return the start method of runs: on Linux without GPUs forks of a process that imported kat.

    Where there are GPUs each run starts anew, since a library that asks for them on import would
    keep them from forked processes. On macOS, frameworks of the system do not survive a fork.
    """
    on_cpu = sys.platform == "linux" and not torch.cuda.device_count()
    server = processes.fork_server(__name__) if on_cpu else None
    return server or multiprocessing.get_context("spawn")


def _error(exit_code: int | None, log: Path) -> str:
    """Return the last line of the log of a failed run."""
    if exit_code == 0:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    last = lines[-1] if lines else "none"
    return last if exit_code == _FAILED else f"exit code {exit_code}, last output: {last}"


def _environment(slot: int) -> dict[str, str]:
    """Return the environment of this process, with one of its visible GPUs: the GPU of a slot."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    gpu = visible.split(",")[slot % gpus].strip()
    return {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}


def _work(job: Job, environment: Mapping[str, str], threads: int) -> None:
    """Train one run, in its own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until training handles it
    processes.accept_requests_to_stop()
    processes.when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ.clear()
    os.environ.update(environment)  # before CUDA starts
    with open_to_append(job.log) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    torch.set_num_threads(threads)
    with locked(job.log.with_suffix(".lock"), wait=True):
        try:
            if not job.trained:
                train(replace(job.config, resume="auto", progress=False))
            if job.test:
                on_cpu = job.config.accelerator == "cpu"
                write_test(Path(job.config.out), "cpu" if on_cpu else "auto")
        except (CheckpointFailed, InputError, Interrupted, TrainingDiverged) as error:
            warn(f"{first_line(error)}")
            sys.exit(_STOPPED if isinstance(error, Interrupted) else _FAILED)
