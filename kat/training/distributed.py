"""Distributed training: finding ranks, starting processes, collectives.

A launcher says who a process is: ``torchrun`` and SLURM start all processes; without one, the first
process on a machine starts the others, which run the same command.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kat.errors import InputError
from kat.nn.sharded import sharded_like

Item = TypeVar("Item")

_LAUNCHED_BY = "KAT_LAUNCHED_BY"
"""The environment variable that holds the process that started this one."""
_left_group: dist.ProcessGroup | None = None
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30.0
"""How long a process may take to end by itself when one that it trains with is gone."""


@dataclass(frozen=True)
class World:
    """The place of a process among those that train together.

    Args:
        rank: the rank of this process among all.
        local_rank: among those on this machine.
        size: how many there are.
        local_size: how many on this machine.
        launched: whether all processes have been started by a launcher or another process.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    launched: bool = False


def is_first_process() -> bool:
    """Whether this process checks, writes and prints, also before the others have started.

    Examples:
        >>> from kat.training import is_first_process
        >>> is_first_process()
        True
    """
    if dist.is_initialized():
        return dist.get_rank() == 0
    node, local = _int("GROUP_RANK", "NODE_RANK", "SLURM_NODEID"), _int("LOCAL_RANK")
    if _under_slurm():
        return _int("SLURM_PROCID") == 0
    return node == 0 and local == 0


def find_world(devices: int | Literal["auto"], num_nodes: int, present: int) -> World:
    """Asks the launcher for the place of this process.

    Args:
        devices: processes on each machine; auto: as many as the launcher has started, or without
            one as many as there are devices.
        num_nodes: machines.
        present: devices on this machine.

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
        return World(_int("NODE_RANK") * local, 0, num_nodes * local, local)
    if devices != "auto" and world.size != devices * num_nodes:
        raise InputError(
            f"devices={devices} and num_nodes={num_nodes} make {devices * num_nodes} processes, but"
            f" the launcher has started {world.size}"
        )
    return world


def connect(world: World, device: torch.device) -> None:
    """Joins the processes into one group; starts the others on this machine if nobody has.

    Args:
        world: from :func:`find_world`.
        device: what this process computes on; it decides between NCCL and gloo.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1 or dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's own store is there already
        dist.init_process_group(backend)
        return
    address, port = _rendezvous(world)
    if not world.launched:
        _start_others(world, address, port)
    elif _LAUNCHED_BY in os.environ:
        _end_with_parent(int(os.environ[_LAUNCHED_BY]))
    dist.init_process_group(
        backend, f"tcp://{address}:{port}", rank=world.rank, world_size=world.size
    )


def disconnect() -> None:
    """Leaves the group that :func:`connect` has joined.

    The group object is kept until the next one is left. Where DDP's reducer has the last reference,
    it deletes the group while it holds the GIL, and waits for a thread of gloo that waits for the
    GIL.
    """
    global _left_group
    if dist.is_initialized():
        _left_group = dist.group.WORLD
        dist.destroy_process_group()


def _rendezvous(world: World) -> tuple[str, str]:
    """Where the processes meet: what the environment says, SLURM's first node, or this machine."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if _under_slurm():
        address = address or _first_slurm_node(os.environ["SLURM_JOB_NODELIST"])
        port = port or str(15000 + int(os.environ["SLURM_JOB_ID"][-4:]))
    elif world.size == world.local_size and not world.launched:
        address, port = address or "127.0.0.1", port or str(_free_port())
    if address is None or port is None:
        raise InputError(
            "several machines need a launcher: torchrun, srun, or MASTER_ADDR, MASTER_PORT and"
            " NODE_RANK in the environment of each"
        )
    return address, port


def _first_slurm_node(nodes: str) -> str:
    """The first host of a SLURM node list such as ``gpu[01-04,7],login``."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _start_others(world: World, address: str, port: str) -> None:
    """Runs this program once more for each further device of this machine."""
    processes = []
    for local_rank in range(1, world.local_size):
        place = {
            "RANK": world.rank + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": world.size,
            "LOCAL_WORLD_SIZE": world.local_size,
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            _LAUNCHED_BY: os.getpid(),
        }
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, *sys.orig_argv[1:]]
        processes.append(subprocess.Popen(command, env=environment))
    threading.Thread(target=_end_with_others, args=(processes,), daemon=True).start()


def _end_with_others(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends this process, and the others, when one of them has failed."""
    codes = [process.poll() for process in processes]
    while not any(codes):
        if None not in codes:
            return
        time.sleep(_POLL_SECONDS)
        codes = [process.poll() for process in processes]
    time.sleep(_GRACE_SECONDS)  # what stops one usually stops all, and they say why
    sys.stderr.write(f"kat: a process has ended with exit code {next(filter(None, codes))}\n")
    for process in processes:
        process.kill()
    os._exit(1)


def _end_with_parent(parent: int) -> None:
    """Has this process stopped when its parent has ended, and killed if that takes too long."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _under_slurm() -> bool:
    """Whether ``srun`` has started this process; an interactive shell is no such task."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    started = {"SLURM_NTASKS", "SLURM_PROCID"} <= os.environ.keys()
    return started and not interactive and "LOCAL_RANK" not in os.environ


def _int(*names: str) -> int:
    """The first of these environment variables that is set, as a number; else 0."""
    return int(next((os.environ[name] for name in names if os.environ.get(name)), 0))


def gather(item: Item) -> list[Item]:
    """The items of all ranks, in their order; a collective."""
    if not dist.is_initialized():
        return [item]
    items: list[Item] = [item] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def broadcast(item: Item) -> Item:
    """The item of rank 0; a collective."""
    if not dist.is_initialized():
        return item
    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Gives all ranks the buffers of rank 0, which checkpoints keep; a collective.

    A rank's own statistics of a batch norm would be lost in a resumed run.
    """
    if not dist.is_initialized():
        return
    buffers: dict[torch.dtype, list[Tensor]] = {}
    for buffer in map(local, model.buffers()):
        buffers.setdefault(buffer.dtype, []).append(buffer)
    for of_dtype in buffers.values():  # together: each message waits for the others
        values = torch.cat([buffer.reshape(-1) for buffer in of_dtype])
        dist.broadcast(values, 0)
        parts = values.split([buffer.numel() for buffer in of_dtype])
        for buffer, part in zip(of_dtype, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def any_of(here: bool, device: torch.device) -> bool:
    """Whether a condition holds in any rank; a collective.

    Args:
        here: whether it holds in this one.
        device: what this process computes on.
    """
    if not dist.is_initialized():
        return here
    flag = torch.tensor(here, dtype=torch.int32, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


@contextmanager
def in_step(model: nn.Module, device: torch.device, blank: Callable[[], object]) -> Iterator[None]:
    """Within the context all ranks run a sharded model equally often; other models are left alone.

    Each forward pass gathers the weights of all ranks, which may have different numbers of images.
    So a rank that wants a pass says so first, and one that has no more joins in with blank ones.

    Args:
        model: what is run.
        device: what this process computes on.
        blank: runs the model once, and its output is not used.
    """
    if not is_fsdp(model):
        yield
        return

    def announce(*_: Any) -> None:
        any_of(True, device)

    handle = model.register_forward_pre_hook(announce, prepend=True)  # before it gathers weights
    try:
        yield
    finally:
        handle.remove()
    while any_of(False, device):
        blank()


def is_fsdp(model: nn.Module) -> bool:
    """Whether each rank has only a part of the weights, which a forward pass gathers."""
    return isinstance(model, FSDPModule)


def barrier() -> None:
    """Waits until all ranks are here."""
    gather(None)


def wrap(model: nn.Module, world: World, strategy: str, device: torch.device) -> nn.Module:
    """What training calls in place of the model: it exchanges gradients.

    One process alone calls the model. With ``fsdp`` the model itself is cut: each block, and the
    rest together, have their parameters gathered for a forward or backward pass through them, and
    given up after it. Else several processes get DDP, with batch norm over all of them on GPUs.

    Args:
        model: on its device.
        world: the processes.
        strategy: ``ddp`` or ``fsdp``.
        device: what this process computes on.
    """
    if world.size == 1:
        return model
    if strategy == "fsdp":
        mesh = init_device_mesh(device.type, (world.size,))
        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def set_gradient_sync(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass exchanges gradients; those in between add up locally."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
    elif isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = wanted


def local(tensor: Tensor) -> Any:
    """This rank's shard of a DTensor; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """target <- value, of which a DTensor takes its shard.

    Args:
        target: a parameter, buffer or average.
        value: whole, in every rank.
    """
    local(target).copy_(local(sharded_like(value, target)))
