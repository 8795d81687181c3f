"""Many strings in two arrays, whose memory worker processes share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class PackedStrings(Sequence[str]):
    """A sequence of strings, stored as their joint bytes and the end of each.

    Reading a list of strings writes to the reference counts of its objects, so every forked worker
    ends up with a copy of the list. The memory of these arrays is never written to.

    Args:
        content: (bytes,) uint8, the UTF-8 bytes of all strings in order.
        ends: (strings,) int64, where each string ends in ``content``.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack strings one at a time; they need never all be in memory."""
        content, ends = bytearray(), array("q")
        for string in strings:
            content += string.encode(errors="surrogatepass")  # file names may need this
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), np.uint8), np.frombuffer(ends, np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[PackedStrings]) -> PackedStrings:
        """Return the strings of all parts, in order."""
        starts = np.cumsum([0, *(len(part.content) for part in parts[:-1])])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.content for part in parts]), np.concatenate(ends))

    @property
    def arrays(self) -> list[np.ndarray]:
        """Both arrays."""
        return [self.content, self.ends]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """Return a string, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return bytes(self.content[start : self.ends[index]]).decode(errors="surrogatepass")
