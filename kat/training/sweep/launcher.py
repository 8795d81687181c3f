"""Many runs side by side, each in a process of its own with a share of the machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from kat.errors import (
    CheckpointFailed,
    InputError,
    Interrupted,
    TrainingDiverged,
    first_line,
)
from kat.machine import cores
from kat.training.config import TrainConfig
from kat.training.distributed import end_with_parent
from kat.training.run import train
from kat.training.signals import StopRequest

_STOPPED, _FAILED = 75, 1


@dataclass
class Job:
    """A run to be made.

    Args:
        config: its settings; an unfinished run in ``config.out`` is gone on with.
        log: the file that takes what the run prints.
    """

    config: TrainConfig
    log: Path


@dataclass
class Outcome:
    """How a run has ended: ``error`` is empty where it is done."""

    job: Job
    error: str = ""


def slots(jobs: int | None, threads: int, *, on_cpu: bool = False) -> int:
    """How many runs to make at once: one a GPU, where they are used; else what the cores allow."""
    if jobs is not None:
        return jobs
    gpus = 0 if on_cpu else torch.cuda.device_count()
    return gpus or max(1, cores() // threads)


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    threads: int,
    started: Callable[[Job], None],
    ended: Callable[[Outcome], None],
) -> None:
    """Makes all runs, so many at once, and tells of each that starts and ends.

    A run that fails does not stop the others. Each run holds a lock on its folder: one that an
    earlier call has left behind is waited for. With this process, in whatever way it ends, the
    runs end too, having saved where they are.

    Args:
        jobs: in the order in which they start.
        at_once: how many at a time; with GPUs each has the next of them.
        threads: of each run, on the CPU.
        started, ended: are called with each.

    Raises:
        Interrupted: a signal asked to stop; all runs have saved their state.
    """
    context = multiprocessing.get_context("spawn")
    waiting, running = list(jobs), dict[Any, tuple[Any, Job, int]]()
    free = list(range(at_once))
    with _stop_request() as request, _stopped_with(running):
        while running or (waiting and request.signal is None):
            while waiting and free and request.signal is None:
                job, slot = waiting.pop(0), free.pop(0)
                process = context.Process(target=_work, args=(job, _gpu(slot), threads))
                process.start()
                running[process.sentinel] = process, job, slot
                started(job)
            for sentinel in wait(list(running), timeout=0.5):
                process, job, slot = running.pop(sentinel)
                process.join()
                free.append(slot)
                if process.exitcode == 0 or request.signal is None:
                    ended(Outcome(job, _error(process.exitcode, job.log)))
            if request.signal is not None:
                _stop([process for process, _, _ in running.values()])
    if request.signal is not None:
        raise Interrupted(f"stopped by {request.signal.name}; call it again to go on")


@contextmanager
def _stop_request() -> Iterator[StopRequest]:
    request = StopRequest()
    request.watch()
    try:
        yield request
    finally:
        request.release()


@contextmanager
def _stopped_with(running: dict[Any, tuple[Any, Job, int]]) -> Iterator[None]:
    """Stops the runs where the body fails; they would go on, and be waited for, otherwise."""
    try:
        yield
    except BaseException:
        _stop([process for process, _, _ in running.values()])
        raise


def _stop(processes: Sequence[Any]) -> None:
    """Asks runs to save and stop, and waits until they have."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _error(exit_code: int | None, log: Path) -> str:
    """What a run that failed has said last."""
    if exit_code == 0:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    said = lines[-1] if lines else "nothing"
    return said if exit_code == _FAILED else f"ended with exit code {exit_code}, saying: {said}"


def _gpu(slot: int) -> str | None:
    """Which GPU the runs of a slot have, of those that this process may use."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else list(map(str, range(gpus)))
    return names[slot % gpus].strip()


def _work(job: Job, gpu: str | None, threads: int) -> None:
    """One run, in its own process."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with_parent(parent.pid or 0)
    with job.log.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    torch.set_num_threads(threads)
    with FileLock(job.log.with_suffix(".lock")):
        sys.exit(_train(replace(job.config, resume="auto", progress=False)))


def _train(config: TrainConfig) -> int:
    try:
        train(config)
    except (CheckpointFailed, InputError, Interrupted, TrainingDiverged) as error:
        sys.stderr.write(f"{first_line(error)}\n")
        return _STOPPED if isinstance(error, Interrupted) else _FAILED
    return 0
