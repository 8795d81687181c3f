"""The processes that load images beside training: how they start, and when they end.

A fork of a process copies its locks as they are, and none of the threads that hold them. The
threads of torch's collectives take Python's locks at any time, so a worker that is forked beside
them may wait for ever (https://github.com/python/cpython/issues/112275). Where processes train
together, workers are therefore forked from a server that has no such threads.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from kat.errors import Failed
from kat.ops.torch_internals import when_sending_fails
from kat.processes import REQUESTS_TO_STOP, accept_requests_to_stop, fork_server, when_parent_ends


class LoaderFailed(Failed):
    """A process that loads images has ended. Exit code 1.

    Args:
        reason: what was noticed of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"a process that loads images has ended ({reason}), often for lack of memory or of open"
            " files (ulimit -n): lower data.num_workers; --resume auto continues a run"
        )


def worker_has_ended(error: Exception) -> bool:
    """Return True if an error says that a worker of a DataLoader was killed or has crashed.

    PyTorch also raises it by a signal handler, hence anywhere in the program.
    """
    lost = isinstance(error, ConnectionError | EOFError)  # to the worker; its own are wrapped
    return lost or (isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error))


def worker_server() -> BaseContext | None:
    """Return a starter of workers beside threads; None where the system has no fork.

    It starts now, and imports kat while this process goes on.
    """
    return fork_server("kat.data.loading.loader")


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return an iterator over a DataLoader, whose workers have started.

    If a worker cannot start, those before it are killed, because the program would wait for them
    at its exit.
    """
    before = multiprocessing.active_children()
    collects = gc.isenabled()
    gc.disable()  # until a worker has left the objects of this process alone: see prepare_worker
    try:
        return iter(loader)
    except BaseException:
        for worker in multiprocessing.active_children():
            if worker not in before:
                worker.kill()
        raise
    finally:
        if collects:
            gc.enable()


def prepare_worker(worker: int) -> None:
    """Make a worker ignore signals that ask a run to stop, and end with the main process.

    The main process sees to requests to stop, and may pass SIGTERM on: a second one ends the
    worker. Objects of the main process are not collected here, since some wait in their destructor
    for threads that a fork lacks: a session of onnxruntime ends the worker by a segmentation fault.
    """
    gc.freeze()
    gc.enable()

    def ignore_once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    # Code 0: with any other torch raises an error from a signal handler, even in a destructor.
    when_sending_fails(lambda error, item: os._exit(0))
    for number in REQUESTS_TO_STOP:
        signal.signal(number, ignore_once if number == signal.SIGTERM else signal.SIG_IGN)
    accept_requests_to_stop()
    main = multiprocessing.parent_process()
    # torch watches the parent, which is the server if there is one.
    if main is not None and main.pid != os.getppid():
        when_parent_ends(lambda: os._exit(1))
