"""The order in which the processes of a run read a dataset."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from kat.data.seeds import ORDER, derived_seed

Key = tuple[int, int]
"""(epoch, index): an image, and the epoch that decides its augmentation."""


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes that share the data."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ResumableSampler(Sampler[list[Key]]):
    """Batches of keys, from any batch of any epoch on.

    The order is a function of (seed, epoch, rank). Rank r of w processes takes the indices at r,
    r + w, r + 2w, ... In training, these are taken from a permutation that is cut so that all
    processes have equally many full batches; all processes together have the batches of one process
    with their joint batch size. In evaluation, they are taken from the natural order and nothing is
    cut or repeated, so that each image counts once.

    Args:
        length: number of images in the dataset.
        batch_size: number of images in a batch of this process.
        seed: seed of the permutations; None for evaluation.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Choose where the next iteration starts."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        """Return the number of batches in an epoch of this process."""
        images = len(range(self.length)[self._share()])
        full, rest = divmod(images, self.batch_size)
        return full + (rest > 0 and self.seed is None)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, indices = self.epoch, self._indices()
        for batch in range(self.first_batch, len(self)):
            chosen = indices[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in chosen.tolist()]

    def _indices(self) -> Tensor:
        if self.seed is None:
            return torch.arange(self.length)[self._share()]
        generator = torch.Generator().manual_seed(derived_seed(ORDER, self.seed, self.epoch))
        return torch.randperm(self.length, generator=generator)[self._share()]

    def _share(self) -> slice:
        rank, world_size = rank_and_world_size()
        end = self.length if self.seed is None else self.length - self.length % world_size
        return slice(rank, end, world_size)
