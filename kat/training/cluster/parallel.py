"""The model in several processes: copies that exchange gradients (DDP), or shards (FSDP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kat.nn.sharded import sharded_like
from kat.training.cluster.processes import World


def is_fsdp(model: nn.Module) -> bool:
    """Return True if each rank has a part of the weights, which a forward pass gathers."""
    return isinstance(model, FSDPModule)


def wrap(model: nn.Module, world: World, strategy: str, device: torch.device) -> nn.Module:
    """Return the model as training calls it: with an exchange of gradients between processes.

    With ``fsdp`` the model itself is sharded: each block, and the rest together, gather their
    parameters for a forward or backward pass. Else several processes use DDP, on GPUs with batch
    norm over all of them.

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
    """Set if the next backward pass exchanges gradients, which else add up locally."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
    elif isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = wanted


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, and other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """target <- value (whole, in every rank), of which a DTensor takes its shard."""
    local(target).copy_(local(sharded_like(value, target)))
