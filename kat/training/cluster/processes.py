"""The processes of a run: the place of each, the launcher, the group that they join.

``torchrun`` and SLURM's ``srun`` start all processes of a run and say which one each is. Without
them, ``--devices N`` starts torchrun's own launcher, which runs the same command N times.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
import torch.distributed as dist

from kat.errors import InputError, Interrupted

_LAUNCHER = "KAT_LAUNCHER"
"""The environment variable with the process that started this one by :func:`launch`."""
_ON_A_CPU = 8
"""Processes that a CPU with fewer cores may run, to try out several processes."""
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30.0
"""The time that a process has to end by itself when others have ended."""
_ASKED_TO_STOP = 75
"""The exit code of a run that can be resumed."""
_left_group: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class World:
    """The place of a process among the processes of a run.

    Args:
        rank: the rank of this process among all.
        local_rank: its rank on this machine.
        size: the number of processes.
        local_size: the number of processes on this machine.
        launched: all processes have been started.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    launched: bool = False

    @property
    def needs_launch(self) -> bool:
        """Return True if this process must start the processes of the run."""
        return self.size > 1 and not self.launched


def is_first_process() -> bool:
    """Return True in the process that checks, writes and prints.

    Examples:
        >>> from kat.training import is_first_process
        >>> is_first_process()
        True
    """
    if dist.is_initialized():
        return dist.get_rank() == 0
    if _under_slurm():
        return _int("SLURM_PROCID") == 0
    return _int("GROUP_RANK") == _int("LOCAL_RANK") == 0


def find_place(
    accelerator: str, devices: int | Literal["auto"], num_nodes: int
) -> tuple[torch.device, World]:
    """Find the device of this process, and its place among all.

    Args:
        accelerator: the kind of device, as in the settings.
        devices: processes on each machine; auto: as many as the launcher has started, or without
            one as many as there are GPUs.
        num_nodes: machines.

    Raises:
        InputError: there is no such device or there are too few, or the launcher has started
            another number of processes.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if found is None else found.type
    kind = {"auto": available, "gpu": "cuda"}.get(accelerator, accelerator)
    if kind not in ("cpu", available):
        raise InputError(f"device {kind} is unavailable on this machine: take {available}, or auto")
    if kind == "cuda":
        present = most = torch.cuda.device_count()
        has = f"{most} GPUs"
    else:
        present, most = 1, max(_ON_A_CPU, os.cpu_count() or 1)
        has = f"a CPU for at most {most}"
    world = find_world(devices, num_nodes, present)
    if world.local_size > most:
        raise InputError(f"{world.local_size} processes, but this machine has {has}")
    return torch.device(f"cuda:{world.local_rank}" if kind == "cuda" else kind), world


def find_world(devices: int | Literal["auto"], num_nodes: int, present: int) -> World:
    """Ask the launcher for the place of this process; ``present``: devices on this machine.

    Raises:
        InputError: the launcher has started another number of processes, or SLURM only one of
            several.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world = World(
            _int("RANK"), _int("LOCAL_RANK"), _int("WORLD_SIZE"), _int("LOCAL_WORLD_SIZE"), True
        )
    elif _under_slurm():
        tasks, nodes = _int("SLURM_NTASKS"), _int("SLURM_NNODES") or num_nodes
        if tasks > 1 and "SLURM_STEP_ID" not in os.environ:  # srun sets it, sbatch does not
            raise InputError(
                f"SLURM has allocated {tasks} tasks, but srun has not started this process, which"
                " would wait for the others for ever: put srun before the command, or allocate one"
                " task"
            )
        world = World(
            _int("SLURM_PROCID"), _int("SLURM_LOCALID"), tasks, max(1, tasks // nodes), True
        )
    else:
        local = present if devices == "auto" else devices
        return World(0, 0, num_nodes * local, local)
    if devices != "auto" and world.size != devices * num_nodes:
        raise InputError(
            f"devices={devices} and num_nodes={num_nodes} make {devices * num_nodes} processes, but"
            f" the launcher has started {world.size}"
        )
    return world


def launch(world: World) -> NoReturn:
    """Run this command once for each device of this machine, and exit with its exit code.

    torchrun's launcher passes SIGTERM and SIGUSR1 on, after which the processes save the run; a
    terminal sends SIGINT to all of them itself.

    Raises:
        InputError: there are other machines; or this is a notebook, not a command.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    if world.size > world.local_size:
        raise InputError("several machines need a launcher: torchrun or srun")
    if not hasattr(sys.modules["__main__"], "__file__") and "-c" not in sys.orig_argv:
        raise InputError(
            f"{world.size} devices need a command that can be run once for each, which a notebook"
            " is not: take kat train or a script, or devices=1"
        )
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=world.local_size, run_id="kat", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=_POLL_SECONDS,
        signals_to_handle="SIGTERM,SIGUSR1",
    )  # fmt: skip
    os.environ[_LAUNCHER] = str(os.getpid())
    logging.disable()  # the processes themselves say what happens
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        sys.exit(max(1, error.get_first_failure()[1].exitcode))  # negative: killed by a signal
    except (KeyboardInterrupt, SignalException):
        sys.exit(_ASKED_TO_STOP)
    sys.exit(0)


def is_launched_here() -> bool:
    """Return True in a process that :func:`launch` has started."""
    return _LAUNCHER in os.environ and "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def one_message() -> Iterator[None]:
    """Leave the message of an error that all processes raise to the first one."""
    try:
        yield
    except Exception as error:
        if is_launched_here() and not is_first_process():
            if isinstance(error, Interrupted):
                sys.exit(_ASKED_TO_STOP)
            time.sleep(_GRACE_SECONDS)  # the launcher ends this process after the first one
        raise


def connect(world: World, device: torch.device) -> None:
    """Join the processes into one group; ``device`` decides between NCCL and gloo."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1 or dist.is_initialized():
        return
    if is_launched_here():
        _end_with_parent(int(os.environ[_LAUNCHER]))
    if _under_slurm():
        # the first host of a list of nodes such as gpu[01-04,7],login
        first = re.sub(r"\[(\w+)[^]]*\]", r"\1", os.environ["SLURM_JOB_NODELIST"]).split(",")[0]
        os.environ.setdefault("MASTER_ADDR", first)
        port = 15000 + int(os.environ["SLURM_JOB_ID"][-4:])
        os.environ.setdefault("MASTER_PORT", str(port))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=world.rank, world_size=world.size)
    if backend == "gloo":
        dist.barrier()  # or others may still connect to a first process that has refused and left


def disconnect() -> None:
    """Leave the group that :func:`connect` has joined.

    The group object is kept until the next one is left. Where DDP's reducer has the last reference,
    it deletes the group while it holds the GIL, and waits for a thread of gloo that waits for the
    GIL.
    """
    global _left_group
    if dist.is_initialized():
        _left_group = dist.group.WORLD
        dist.destroy_process_group()


def _end_with_parent(parent: int) -> None:
    """Terminate this process when its parent exits, and kill it if that takes too long."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _under_slurm() -> bool:
    """Return True if ``srun`` has started this process, which is no interactive shell."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    started = {"SLURM_NTASKS", "SLURM_PROCID"} <= os.environ.keys()
    return started and not interactive and "LOCAL_RANK" not in os.environ


def _int(name: str) -> int:
    value = os.environ.get(name) or "0"
    if not value.isdecimal():
        raise InputError(f"the environment has {name}={value}, which is no number: unset it")
    return int(value)
