"""Threads and backends of the tests."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import kernels
from tests.processes import IMPORTED_BY_RUNS

# The tests are small: threads that wait for each other cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Where the CPU kernel is unavailable, its own tests say so; the others run on the reference without
# its warning.
if kernels.problem():
    os.environ["KAT_CPU_KERNEL"] = "off"


def pytest_configure(config):
    """Make the fork server import what slow tests start from it, whoever starts it first."""
    preload = forkserver.set_forkserver_preload
    if config.option.markexpr != "not slow":
        forkserver.set_forkserver_preload = lambda names: preload([*names, *IMPORTED_BY_RUNS])


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests of a release, unless ``-m`` asks for them, and puts slow files first.

    The order is for pytest-xdist, whose last process would run a slow file while the others wait:
    files without slow tests take two minutes together, longer than any file with some.
    """
    if "release" not in config.option.markexpr:
        left_out = {item for item in items if item.get_closest_marker("release")}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _seed():
    """The numbers that a test draws do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def process_group():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def script():
    """Imports a module of scripts/ by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "scripts")
        yield importlib.import_module


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """The folder of a cache for this test alone, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KAT_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def items(tmp_path_factory):
    """Digits on canvases, 8 images to train on and 6 to validate on, as COCO's and as ADE20K's."""
    from examples.items import make_items  # needs more than torch

    out = tmp_path_factory.mktemp("data") / "items"
    make_items(out, source="digits", images=8, val_images=6, size=64)
    return out
