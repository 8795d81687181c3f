"""A fork server imports what the main process would, and keeps its modules for others."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="the system has no fork"
)

_FORK = """
import sys

def show():
    print("kat.machine" in sys.modules)
    import kat.machine
    print(kat.machine.__file__)

if __name__ == "__main__":
    from kat.processes import fork_server

    process = fork_server("kat.machine").Process(target=show)
    process.start()
    process.join()
"""


@pytest.mark.slow
def test_another_kat_in_the_current_directory_is_not_imported(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "fork.py").write_text(_FORK)
    (tmp_path / "kat").mkdir()
    for name in ("__init__", "machine"):
        (tmp_path / "kat" / f"{name}.py").touch()
    command = [sys.executable, "scripts/fork.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported, path = done.stdout.split()
    assert imported == "True"
    assert Path(path) == Path(__file__).parents[1] / "kat" / "machine.py"
