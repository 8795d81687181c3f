"""Parameters that are sharded over processes (``DTensor``, as of FSDP2), read and written whole.

Every process of the parameter's mesh calls these functions at the same time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def full_tensor(tensor: Any) -> Tensor:
    """Gathers a sharded tensor on every process; other tensors stay as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(value: Tensor, like: Any) -> Tensor:
    """``value`` with the device and the sharding of a tensor of its shape.

    If that is sharded, the values of the mesh's first process count.
    """
    value = value.to(like.device)
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor  # slow to import

    return distribute_tensor(value, like.device_mesh, like.placements)


def replicated_like(value: Tensor, like: Any) -> Tensor:
    """``value`` with the device and the dtype of a tensor, for operations between the two."""
    value = value.to(like.device, like.dtype)
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh)  # without placements: the same everywhere


def is_sharded(tensor: Tensor) -> bool:
    """Return True if a tensor is a ``DTensor``."""
    return hasattr(tensor, "full_tensor")
