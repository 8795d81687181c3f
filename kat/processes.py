"""Start processes beside this one, and end them with it.

A terminal or a scheduler sends a request to stop to all processes of a command. The main process
sees to it, so the others start with such signals blocked, and accept them when they can answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

REQUESTS_TO_STOP = {
    signal.SIGTERM,
    signal.SIGINT,
    getattr(signal, "SIGUSR1", signal.SIGTERM),  # Windows has none
}


@contextmanager
def requests_to_stop_blocked() -> Iterator[None]:
    """Block requests to stop in this thread, and in processes that it starts meanwhile.

    A request that arrives meanwhile is answered at the end.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would unblock them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def accept_requests_to_stop() -> None:
    """Unblock requests to stop, in a process that was started with them blocked."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS_TO_STOP)


def fork_server(module: str) -> BaseContext | None:
    """Start a process that imports a module, and from which others are then forked.

    It ends with this process, and blocks requests to stop, as do the processes that it forks.

    Args:
        module: the module to import; one that asks for GPUs on import would keep them from the
            forked processes.

    Returns:
        What starts the processes; None where the system has no fork.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    before = dict(os.environ)
    # The server's own path begins with the current directory, which may hold another copy of kat.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    os.environ.update(PYTHONPATH=path, PYTHONSAFEPATH="1")
    try:
        with requests_to_stop_blocked():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def when_parent_ends(end: Callable[[], None]) -> None:
    """Call a function, in a thread, when the process that started this one has ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        end()

    threading.Thread(target=follow, daemon=True).start()
