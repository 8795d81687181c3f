"""FSDP2: each process has a share of weights, gradients and moments."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FullySharded(ModelParallelStrategy):
    """Cuts a model over all processes; its checkpoints are whole, as those of one process are."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Puts all processes into one group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cuts the parameters of each block, and the others together, over the processes of a mesh.

    All are gathered for a forward or backward pass through their part, and given up after it. A
    model that is cut already is left alone.
    """
    if isinstance(model, FSDPModule):
        return
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
