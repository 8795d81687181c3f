"""Many strings without many objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """Strings as two arrays: the bytes of all of them, and where each ends.

    A list would be copied into every worker process bit by bit, because looking at an object
    writes its reference count into its memory page. These pages are only ever read.

    Args:
        content: (bytes,) uint8, the strings one after the other, UTF-8.
        ends: (strings,) int64, where each string ends in ``content``.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> PackedStrings:
        """Packs strings, without ever holding all of them."""
        content, ends = bytearray(), array("q")
        for string in strings:
            content += string.encode(errors="surrogateescape")  # as names of files may need
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), np.uint8), np.frombuffer(ends, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[PackedStrings]) -> PackedStrings:
        """All strings of the parts, one part after the other."""
        if not parts:
            return cls.of([])
        starts = np.cumsum([0, *(len(part.content) for part in parts[:-1])])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.content for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return bytes(self.content[start : self.ends[index]]).decode(errors="surrogateescape")
