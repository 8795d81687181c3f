"""Reads images in tar files at known offsets."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import BinaryIO

import numpy as np

from kat.data.decoding import IMAGE_LIMIT
from kat.data.sources.tar_index import TarIndex
from kat.errors import UnreadableFile
from kat.files import open_input, too_large

_MOST_OPEN = 128


class FileRanges:
    """Reads ranges of bytes of files, and keeps the files open that were used last.

    Safe to fork, because no file position is shared, and to pickle: each process opens its own
    files. Threads read one after the other, so that none closes the file that another reads.

    Args:
        paths: paths of the files.
        most_open: largest number of files that stay open.
    """

    def __init__(self, paths: Sequence[str], most_open: int = _MOST_OPEN) -> None:
        self.paths = list(paths)
        self.most_open = most_open
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = Lock()

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Reads ``size`` bytes at ``offset`` of the file with this index.

        Raises:
            OSError: the bytes cannot be read, or the file ends before.
        """
        with self._lock:
            descriptor = self._descriptor(file)
            content = os.pread(descriptor, size, offset)
            while len(content) < size:  # the system reads at most 2 GiB at once
                more = os.pread(descriptor, size - len(content), offset + len(content))
                if not more:
                    raise OSError(f"{self.paths[file]} ends before byte {offset + size}")
                content += more
            return content

    def _descriptor(self, file: int) -> int:
        if file in self._open:
            self._open.move_to_end(file)
        else:
            self._open[file] = open_input(self.paths[file], buffering=0)
            if len(self._open) > self.most_open:
                self._open.popitem(last=False)[1].close()
        return self._open[file].fileno()

    def close(self) -> None:
        """Closes all files; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __reduce__(self) -> tuple[type[FileRanges], tuple[list[str], int]]:
        return FileRanges, (self.paths, self.most_open)

    def __del__(self) -> None:
        self.close()


class TarSource:
    """Images in tar files, at known offsets.

    Args:
        paths: paths of the tar files.
        index: where the images are in them.
        labels: (images,) int64, class indices.
    """

    def __init__(self, paths: Sequence[str], index: TarIndex, labels: np.ndarray) -> None:
        self.files = FileRanges(paths)
        self.index = index
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The path of the tar file, followed by that of the image in it."""
        return f"{self.files.paths[self.index.shards[index]]}/{self.index.names[index]}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads the bytes of the image and the label."""
        _, shards, offsets, sizes = self.index
        if sizes[index] > IMAGE_LIMIT:
            raise UnreadableFile(self.name(index), too_large(int(sizes[index]), IMAGE_LIMIT))
        content = self.files.read(int(shards[index]), int(offsets[index]), int(sizes[index]))
        return content, int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """The paths of the images in their tar files, and the labels."""
        return [*self.index.names.arrays, self.labels]
