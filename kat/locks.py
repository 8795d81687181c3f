"""Locks between processes, for Linux and macOS."""

from __future__ import annotations

import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kat.errors import InputError

_OWN: dict[Path, threading.Lock] = defaultdict(threading.Lock)
"""The locks of this process, by file: the kernel would give it the same lock again."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock on a file, which names this process and is removed at the end.

    The kernel holds the lock for this process, but not for its children (which may outlive it, and
    would keep a lock by flock), also between the machines of NFS. It drops the lock with the
    process, however that ends. No file is opened through a link or truncated: a file that holds
    something or has a second name is unlinked, and a new one takes its place.

    Args:
        path: the path of the file; its folder must exist.
        wait: wait while another process or thread holds the lock.

    Raises:
        InputError: another one holds the lock, or the system is Windows.
        OSError: the file cannot be written.
    """
    own = _OWN[path.parent.resolve() / path.name]
    if not own.acquire(blocking=wait):
        raise _is_written(path, "this process")
    try:
        descriptor = _lock(path, wait)
        try:
            yield
        finally:
            with suppress(OSError):  # of a disk that has become read-only
                path.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        own.release()


def _lock(path: Path, wait: bool) -> int:
    """Return the descriptor of the file, locked."""
    try:
        import fcntl
    except ImportError:
        raise InputError("runs are not locked on Windows; use Linux, macOS or WSL") from None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            with os.fdopen(descriptor, errors="replace") as file:
                raise _is_written(path, file.read(1000)) from None
        except OSError:
            pass  # a file system without locks
        status = os.fstat(descriptor)
        with suppress(FileNotFoundError):  # a process that has just ended has removed the file
            if os.path.samestat(status, path.lstat()):
                if not status.st_size and status.st_nlink < 2:
                    break
                path.unlink()  # of a process that was killed, or not a lock at all
        os.close(descriptor)
    with suppress(OSError):  # of a full disk, which the holder finds anyway
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _is_written(path: Path, holder: str) -> InputError:
    return InputError(
        f"{path.parent} is being written by another run ({holder}): wait for it, stop it, or give"
        " another --out"
    )
