"""Parameters that are sharded over processes (``DTensor``, as of FSDP2), read and written whole.

Every process of the parameter's mesh calls these functions at the same time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def full_tensor(tensor: Any) -> Tensor:
    """Gather a sharded tensor on every process; other tensors stay as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(value: Tensor, like: Any, *, replicate: bool = False) -> Tensor:
    """``value`` with the device and the sharding of a tensor, the values of the first process.

    Args:
        value: of the tensor's shape, or of any if replicated.
        like: the tensor.
        replicate: keep the whole value on every process, for operations with the tensor.
    """
    value = value.to(like.device)
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor  # slow to import

    return distribute_tensor(value, like.device_mesh, None if replicate else like.placements)


def is_sharded(tensor: Tensor) -> bool:
    """Return True if a tensor is a ``DTensor``."""
    return hasattr(tensor, "full_tensor")
