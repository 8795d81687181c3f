"""Images that are pieces of large files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from kat.data.packed import PackedStrings

_MOST_OPEN = 128


class Pieces:
    """Reads pieces of files, each from any place, and keeps the files open that it used last.

    Safe after a fork, since no position in a file is shared, and to pickle: a process opens its
    own files.

    Args:
        paths: the files.
        most_open: how many stay open.
    """

    def __init__(self, paths: Sequence[str], most_open: int = _MOST_OPEN) -> None:
        self.paths = list(paths)
        self.most_open = most_open
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, file: int, offset: int, size: int) -> bytes:
        """So many bytes of the file of this number, from this offset on.

        Raises:
            OSError: they cannot be read, or the file ends before.
        """
        piece = os.pread(self._descriptor(file), size, offset)
        while len(piece) < size:  # the system reads no more than 2 GiB at once
            more = os.pread(self._descriptor(file), size - len(piece), offset + len(piece))
            if not more:
                raise OSError(f"{self.paths[file]} ends before byte {offset + size}")
            piece += more
        return piece

    def _descriptor(self, file: int) -> int:
        if file in self._open:
            self._open.move_to_end(file)
        else:
            self._open[file] = open(self.paths[file], "rb", buffering=0)  # noqa: SIM115
            if len(self._open) > self.most_open:
                self._open.popitem(last=False)[1].close()
        return self._open[file].fileno()

    def close(self) -> None:
        """Closes all files; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "most_open": self.most_open, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()


class MemberSource:
    """Images in tar files, at known places.

    Args:
        paths: the tar files.
        names: of the images, in their tar files.
        shards: (images,) int32, the tar file that each is in.
        offsets: (images,) int64, where the bytes of each start.
        sizes: (images,) int64, how many bytes each has.
        labels: (images,) int64, class indices.
    """

    def __init__(
        self,
        paths: Sequence[str],
        names: PackedStrings,
        shards: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.pieces = Pieces(paths)
        self.names = names
        self.shards = shards
        self.offsets = offsets
        self.sizes = sizes
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The path of the tar file, and in it of the image."""
        return f"{self.pieces.paths[self.shards[index]]}/{self.names[index]}"

    def read(self, index: int) -> tuple[bytes, int]:
        """The bytes of the image and its label."""
        place = int(self.shards[index]), int(self.offsets[index]), int(self.sizes[index])
        return self.pieces.read(*place), int(self.labels[index])
