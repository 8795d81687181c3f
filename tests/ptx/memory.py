"""The tensors of a launch, and shared memory, with a check of every access."""

from __future__ import annotations

import ctypes
import mmap
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from tests.ptx.arithmetic import Array
from tests.ptx.instructions import Fault


@dataclass
class Region:
    """Memory of the tensors that share a storage.

    Attributes:
        name: of the arguments.
        first: address of the first byte.
        unit: bytes of an element.
        count: elements.
        inside: whether an element belongs to a tensor; None if all do.
        owner: 1 + the thread that wrote an element; 0 of no thread; None if nothing was written.
    """

    name: str
    first: int
    unit: int
    count: int
    inside: Array | None
    owner: Array | None = None

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Region:
        """The region of these tensors of one storage."""
        one = next(iter(tensors.values()))
        storage, unit = one.untyped_storage(), one.element_size()
        count, inside = storage.nbytes() // unit, None
        if not any(t.numel() == count for t in tensors.values()):
            mask = torch.zeros(count, dtype=torch.bool)
            for t in tensors.values():
                mask.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
            inside = mask.numpy()
        return cls("+".join(tensors), storage.data_ptr(), unit, count, inside)

    @property
    def bytes(self) -> Array:
        size = self.unit * self.count
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.first))


def _zeros(count: int) -> Array:
    """Zeros that take memory where they are written; no array is too large."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, 8 * count, flags=flags), np.int64)


_MAP_NORESERVE = 0x4000  # of Linux; Python names it from 3.13 on


class GlobalMemory:
    """The tensors of a launch.

    A thread may read what it has written itself, or what no thread has; and write where no other
    thread has. Then the order of blocks and threads does not matter.

    Attributes:
        moved: bytes that threads loaded and stored, by the arguments of the tensor, as
            ("load", "x_ptr").
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        """Of the arguments that are tensors, by name."""
        shared: dict[int, dict[str, torch.Tensor]] = {}
        for name, t in tensors.items():
            if t.numel():
                shared.setdefault(t.untyped_storage().data_ptr(), {})[name] = t
        self.regions = [Region.of(some) for some in shared.values()]
        self.moved: Counter[tuple[str, str]] = Counter()

    def access(self, places: Array, size: int, threads: Array, stored: Array | None) -> Array:
        """Load or store ``size`` bytes a thread; return the bytes.

        Args:
            places: addresses.
            threads: number of each thread in the launch.
            stored: what to store, (threads, size); None loads.
        """
        result = np.empty((len(places), size), np.uint8) if stored is None else stored
        left = np.ones(len(places), bool)
        for region in self.regions:
            start = places - region.first
            here = np.flatnonzero((start >= 0) & (start + size <= region.unit * region.count))
            if len(here):
                self._check(region, start[here], size, threads[here], stored is not None)
                index = start[here, None] + np.arange(size)
                if stored is None:
                    result[here] = region.bytes[index]
                else:
                    region.bytes[index] = stored[here]
                left[here] = False
                self.moved["load" if stored is None else "store", region.name] += size * len(here)
        if left.any():
            raise Fault(f"address {places[left][0]:#x} is in no tensor, of {left.sum()} threads")
        return result

    @staticmethod
    def _check(region: Region, start: Array, size: int, threads: Array, stores: bool) -> None:
        units = start[:, None] // region.unit + np.arange(-(-size // region.unit))
        if region.inside is not None and not region.inside[units].all():
            raise Fault(f"an address belongs to no element of {region.name}")
        if region.owner is None:
            if not stores:
                return
            region.owner = _zeros(region.count)
        mine = threads[:, None] + 1
        before = region.owner[units]
        if stores:
            region.owner[units] = mine
        foreign = (before != 0) & (before != mine) | (stores & (region.owner[units] != mine))
        if foreign.any():
            what = "two threads write" if stores else "a thread reads what another wrote in"
            raise Fault(f"{what} one place of {region.name}")


class SharedMemory:
    """Shared memory of some blocks.

    Between two barriers, what one warp writes no other warp may read or write.
    """

    def __init__(self, blocks: int, size: int) -> None:
        self.bytes = np.zeros((blocks, size), np.uint8)
        self.written = np.zeros((blocks, size), bool)
        self.writer = np.zeros((blocks, size), np.int16)  # 1 + warp, 0 of none
        self.reader = np.zeros((blocks, size), np.int16)  # the same; -1 of several

    def barrier(self, blocks: Array) -> None:
        """All threads of these blocks have met."""
        self.writer[blocks] = self.reader[blocks] = 0

    def access(
        self, places: Array, size: int, blocks: Array, warps: Array, stored: Array | None
    ) -> Array:
        """Load or store ``size`` bytes a thread; return the bytes."""
        if places.min() < 0 or places.max() + size > self.bytes.shape[1]:
            raise Fault("an address is beyond the shared memory of the block")
        at = blocks[:, None], places[:, None] + np.arange(size)
        mine = np.broadcast_to(warps[:, None].astype(np.int16) + 1, at[1].shape)
        if np.any((self.writer[at] != 0) & (self.writer[at] != mine)):
            raise Fault("two warps use one place of shared memory without a barrier")
        if stored is None:
            if not self.written[at].all():
                raise Fault("shared memory is read before it is written")
            earlier = self.reader[at]
            self.reader[at] = np.where((earlier == 0) | (earlier == mine), mine, -1)
            self.reader[at] = np.where(self.reader[at] == mine, self.reader[at], -1)
            return self.bytes[at]
        if np.any((self.reader[at] != 0) & (self.reader[at] != mine)):
            raise Fault("two warps use one place of shared memory without a barrier")
        self.bytes[at], self.written[at], self.writer[at] = stored, True, mine
        if np.any(self.writer[at] != mine):
            raise Fault("two warps write one place of shared memory")
        return stored
