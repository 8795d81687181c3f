"""Models that are parallel already, which are kanified before that."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kat.errors import InputError


def check_unwrapped(model: nn.Module) -> None:
    """Checks that no part of a model is wrapped by DDP or FSDP, or has sharded weights.

    Raises:
        InputError: a part is; the message has the order.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # slow to import
    wrapped = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule) if fsdp else ()
    for name, module in model.named_modules():
        where = repr(name) if name else "the model"
        if isinstance(module, (DataParallel, DistributedDataParallel, *wrapped)):
            kind = "FSDP" if isinstance(module, wrapped) else type(module).__name__
            raise InputError(
                f"{where} is wrapped by {kind} already, which would not know of the rationals'"
                " parameters; build the model, then kanify, then wrap it, then make the optimizer"
            )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "device_mesh"):
            raise InputError(
                f"{name} is sharded over {parameter.device_mesh.size()} processes already (tensor"
                " parallelism), which would cut groups of channels; build the model, then kanify"
                " with a number of groups that the processes divide, then parallelize it"
            )
