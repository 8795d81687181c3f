"""Workers from a fork server: the batches of forked ones, no signals, no life of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kat.data import DataConfig, eval_transform, make_loader, open_split, preprocessing
from kat.data.loading.workers import worker_server
from tests.data.sources.test_registry import SOURCES
from tests.equality import assert_equal
from tests.images import picture
from tests.marks import most_at_night
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="the system has no fork"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    most_at_night(SOURCES, [source for source in SOURCES if source.__name__ == "_shards"]),
)
def test_every_source_is_read_by_workers_of_a_fork_server(tmp_path, source):
    settings, _ = source(tmp_path, [picture(0), picture(1), picture(2), picture(3)])
    config = DataConfig(**settings, image_size=16, batch_size=4, num_workers=1)
    data = open_split(config, "val")
    data.transform = eval_transform(preprocessing(config, data))
    forked, served = (
        list(make_loader(data, config, training=False, workers=workers))
        for workers in (None, worker_server())
    )
    for one, other in zip(forked, served, strict=True):
        assert_equal((one.images, one.labels), (other.images, other.labels))


_READ_SLOWLY = """
import multiprocessing, signal, time
import torch
from kat.data import DataConfig, make_loader, open_split
from kat.data.loading.workers import worker_server

def image(x):
    time.sleep(0.02)
    return torch.zeros(1)

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    config = DataConfig(batch_size=10, num_workers=2)
    data = open_split(config, "train")
    data.transform = image
    batches = iter(make_loader(data, config, training=True, workers=worker_server()))
    for number, _ in enumerate(batches):
        pids = [child.pid for child in multiprocessing.active_children()]
        print(number, *pids, flush=True)
"""


@pytest.fixture
def reader(tmp_path):
    """A process that prints the number of each batch, and the processes of its workers."""
    script = tmp_path / "read.py"
    script.write_text(_READ_SLOWLY)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


def _is_running(pid: int) -> bool:
    """A process that has ended, and is not yet waited for, has no open files."""
    return Path(f"/proc/{pid}/fd/1").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="the system has no /proc")
@pytest.mark.release
def test_requests_to_stop_leave_the_workers_to_the_main_process_and_they_end_with_it(reader):
    reader.stdout.readline()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.killpg(reader.pid, number)
    assert [int(reader.stdout.readline().split()[0]) for _ in range(10)] == list(range(1, 11))
    workers = [int(pid) for pid in reader.stdout.readline().split()[1:]]
    assert [*map(_is_running, workers)] == [True, True]
    reader.kill()
    wait_until(lambda: not any(map(_is_running, workers)))
