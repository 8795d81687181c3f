"""Locks: one process at a time, and no other file is changed by their names."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from kat.errors import InputError
from kat.locks import locked

_HOLD = """
import sys
from pathlib import Path
from kat.locks import locked
with locked(Path(sys.argv[1]), wait=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _holder(path, *options):
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, path, *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_another_process_is_named_or_waited_for_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    with _holder(path) as first:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=rf"another run \(process {first.pid} on "),
            locked(path),
        ):
            pass
        with _holder(path, "wait") as second:
            first.communicate("\n")
            assert second.stdout.readline() == "held\n"
            second.kill()
    assert path.exists()
    with locked(path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_no_other_file_is_changed_by_a_link(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "lock"
    victim.write_text("mine")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels"):
        locked(path).__enter__()
    assert victim.read_text() == "mine"
    path.unlink()
    os.link(victim, path)
    with locked(path):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert victim.read_text() == "mine"


def test_threads_of_one_process_exclude_each_other(tmp_path):
    """One that waits neither enters nor touches the file before the other has left."""
    path, entered = tmp_path / "lock", []

    def enter():
        with locked(path, wait=True):
            entered.append(path.read_text())

    with locked(path, wait=True):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(0.2)
        assert (entered, thread.is_alive()) == ([], True)
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(InputError, match=r"another run \(this process\)"), locked(path):
            pass
    thread.join()
    assert [text.split()[1] for text in entered] == [str(os.getpid())]
    assert not path.exists()
