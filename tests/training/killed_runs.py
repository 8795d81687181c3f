"""Training runs in processes of their own, killed at the n-th of their moments.

A fork server that has imported everything starts each run in a fraction of a second, as fresh as a
new process.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import kat_command
from kat.training.engine import loop
from tests.processes import IMPORTED_BY_RUNS, PATIENCE, free_port

_EACH_RUN_ITS_OWN = re.compile(r"\.run_id$|\.state\.seconds$|\.callbacks\.throughput\.|,speed/")
"""Names of the values that differ between two runs of the same settings."""


def train(arguments: Sequence[str], log: Path, kill_at: int = 0, ranks: int = 1) -> tuple[int, int]:
    """Runs ``kat train`` to its end, or to its ``kill_at``-th moment, where SIGKILL ends it.

    Moments are the hooks of callbacks, the steps of the optimizer, and the files that are saved,
    renamed and linked.

    Args:
        arguments: of the command.
        log: takes what it prints.
        kill_at: 0 for never.
        ranks: that train together.

    Returns:
        The exit code, and the number of moments; of the first rank.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED_BY_RUNS])
    place = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": free_port()} if ranks > 1 else {}  # fmt: skip
    moments = context.Value("i", 0)
    processes = []
    for rank in range(ranks):
        environment = {**place, "RANK": rank, "LOCAL_RANK": rank} if place else {}
        counted = (moments, kill_at) if rank == 0 else (context.Value("i", 0), 0)
        process = context.Process(target=_run, args=(arguments, log, environment, *counted))
        process.start()
        processes.append(process)
    processes[0].join(PATIENCE)
    for process in processes:
        if process.exitcode is None and (process is processes[0] or kill_at):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    code = processes[0].exitcode
    assert code is not None
    return code, moments.value


def _run(
    arguments: Sequence[str], log: Path, environment: dict[str, object], moments: Any, kill_at: int
) -> None:
    os.setsid()  # the workers that load images are killed with it
    multiprocessing.set_start_method("fork", force=True)  # of its workers, as in any other process
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    with log.open("a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    own = os.getpid()

    def moment(*_: object) -> None:
        if os.getpid() != own:  # a worker's
            return
        moments.value += 1
        if moments.value == kill_at:
            os.killpg(own, signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            moment()
            return function(*args, **options)

        return call

    for owner, name in ((loop, "notify"), (os, "replace"), (os, "link"), (torch, "save")):
        setattr(owner, name, counted(getattr(owner, name)))
    register_optimizer_step_post_hook(moment)
    try:
        code = kat_command.main(list(arguments))
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def results(out: Path) -> dict[str, object]:
    """Everything that a run leaves, by name, but its id, times and memory."""
    found: dict[str, object] = {}
    for name in ("last.ckpt", "best.ckpt"):
        flatten(name, torch.load(out / name, weights_only=True), found)
    flatten("model", load_file(out / "model.safetensors"), found)
    for path in sorted(out.glob("*.csv")):
        with path.open(newline="") as file:
            for index, row in enumerate(csv.DictReader(file)):
                found |= {f"{path.name}.{index},{key}": value for key, value in row.items()}
    return {name: value for name, value in found.items() if not _EACH_RUN_ITS_OWN.search(name)}


def flatten(name: str, content: Any, found: dict[str, object]) -> None:
    """Adds what nested dictionaries and lists hold, tensors to the bit, by dotted names."""
    if isinstance(content, torch.Tensor):
        whole = content.detach().contiguous().reshape(-1).view(torch.uint8)
        found[name] = (str(content.dtype), tuple(content.shape), whole.numpy().tobytes())
    elif isinstance(content, dict):
        for key, item in content.items():
            flatten(f"{name}.{key}", item, found)
    elif isinstance(content, list | tuple):
        for index, item in enumerate(content):
            flatten(f"{name}.{index}", item, found)
    else:
        found[name] = content


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The names of what is not the same to the bit."""
    names = sorted(one.keys() | other.keys())
    return [n for n in names if repr(one.get(n)) != repr(other.get(n))]
