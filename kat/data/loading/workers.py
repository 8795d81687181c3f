"""The processes that load images beside training: how they start, and when they end.

A fork of a process copies its locks as they are, and none of the threads that hold them. The
threads of torch's collectives take Python's locks at any time, so a worker that is forked beside
them may wait for ever (https://github.com/python/cpython/issues/112275). Where processes train
together, workers are therefore forked from a server that has no such threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType

_REQUESTS_TO_STOP = {signal.SIGTERM, signal.SIGINT}
if hasattr(signal, "SIGUSR1"):  # not on Windows
    _REQUESTS_TO_STOP.add(signal.SIGUSR1)


def fork_server() -> BaseContext | None:
    """What starts workers beside threads; None where the system has no fork, and no need for it.

    The server starts now and imports kat while this process goes on. It ignores requests to stop,
    which a scheduler sends to all processes of a run, and ends with this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kat.data.loading.loader"])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS_TO_STOP)  # the server inherits it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def start_worker(worker: int) -> None:
    """Has a worker ignore signals that ask a run to stop, and end with the main process.

    The main process sees to requests to stop, and may pass SIGTERM on: a second one ends the
    worker.
    """

    def ignore_once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in _REQUESTS_TO_STOP:
        signal.signal(number, ignore_once if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS_TO_STOP)
    main = multiprocessing.parent_process()
    # torch watches the parent, which is the server if there is one.
    if main is not None and main.pid != os.getppid():
        threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: BaseProcess) -> None:
    """Ends this process when the main process has ended."""
    main.join()
    os._exit(1)
