"""Models that are parallel already, which are kanified before that."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kat.errors import InputError
from kat.models.kanify.finders.mlp import Mlp


def check_unwrapped(model: nn.Module) -> None:
    """Checks that no part of a model is wrapped by DDP or FSDP.

    Raises:
        InputError: a part is; the message has the order.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # slow to import
    sharded = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule) if fsdp else ()
    check_not_compiled(model)
    for name, module in model.named_modules():
        if isinstance(module, (DataParallel, DistributedDataParallel, *sharded)):
            kind = "FSDP" if isinstance(module, sharded) else type(module).__name__
            raise InputError(
                f"{name or 'the model'} is wrapped by {kind} already, which would not know of the"
                " rationals' parameters; build the model, then kanify, then wrap it, then make the"
                " optimizer"
            )


def check_not_compiled(model: nn.Module) -> None:
    """Checks that a model is not what ``torch.compile`` or ``torch.jit`` returned.

    The names of the one are its own, and the other's code cannot be changed.

    Raises:
        InputError: it is.
    """
    if type(model).__name__ == "OptimizedModule" or isinstance(model, torch.jit.ScriptModule):
        raise InputError("the model is compiled already; change the model first, then compile it")


def check_whole(model: nn.Module, mlp: Mlp) -> None:
    """Checks that the weights of an MLP are not cut by tensor parallelism.

    Raises:
        InputError: a weight is a tensor of several processes.
    """
    for linear in (mlp.first, mlp.second):
        for name, parameter in model.get_submodule(linear).named_parameters():
            if hasattr(parameter, "device_mesh"):
                raise InputError(
                    f"{linear}.{name} is cut over processes by tensor parallelism, and so would be"
                    " the groups of channels, each of which needs one function; exclude="
                    f"{mlp.activation!r} leaves this MLP as it is, or build the model, then kanify,"
                    " then parallelize the rest of it"
                )
