"""Reads the images of a split, several at a time, and collects what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kat.data.dataset import Encoded, ImageDataset
from kat.data.decoding import (
    Exif,
    Size,
    UnreadableImage,
    decode_bytes,
    fits_stored_only,
    header,
    orientation_of,
    turned_size,
)
from kat.data.dense.validation import Problem, Setting, problems_of
from kat.errors import MissingFile

Case = tuple[str, str]
"""The kind of a problem, and the case to show."""

MISSING, UNREADABLE = "missing images", "unreadable images"
RESIZED = "images whose size differs from their annotations"
MASK_UNREADABLE = "unreadable masks"
MASK_RESIZED = "masks whose size differs from their image"
NO_CLASS = "masks with values that are not a class"
STORED = "images that EXIF turns, with annotations of the stored pixels"
EITHER = "images that EXIF turns, with annotations that fit both readings"
_NONE_READABLE = "splits without an image that can be read"

_REMEDIES: dict[str, tuple[str, Setting | None]] = {
    **dict.fromkeys(
        (MISSING, UNREADABLE, RESIZED, MASK_UNREADABLE, MASK_RESIZED),
        ("such images are left out", "bad_images"),
    ),
    NO_CLASS: ("such pixels have no class", "bad_annotations"),
    STORED: ("they are not turned", None),
    EITHER: ("they are turned; data.exif=ignore takes them as they are stored", None),
}
"""What training does about each kind, and by which setting."""

_CHUNK = 4096


class Checked(NamedTuple):
    """What was found in one image.

    Args:
        cases: its problems.
        hash: of its bytes; 0 if it cannot be read.
        turned: whether it is turned upright.
        label: its class index; -1 if it cannot be read, or has no one class.
    """

    cases: list[Case]
    hash: int = 0
    turned: bool = False
    label: int = -1


@dataclass
class Images:
    """What was found in the images of a split.

    Args:
        hashes: (images,) uint64, of the bytes of each; 0 for those that cannot be read.
        labels: (images,) int64, class indices; -1 for those that cannot be read or have no one
            class.
        turned: number of images that are turned upright as their EXIF says.
        problems: sorted by kind.
    """

    hashes: np.ndarray
    labels: np.ndarray
    turned: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """How images are checked.

    Args:
        headers_only: whether to read only the headers of images, not their pixels.
        exif: whether images are turned upright.
        threads: number of images that are checked at the same time; at least one.
        tell: called with the number of checked images and the number of all images.
    """

    headers_only: bool
    exif: Exif
    threads: int
    tell: Callable[[int, int], None]

    def images(
        self, data: ImageDataset, cases: Callable[[Any, Size, str], Iterable[Case]]
    ) -> Images:
        """Checks all images of a split.

        Args:
            data: the split.
            cases: finds the problems of an image that can be read, from its label or annotations,
                its size and its name.
        """
        found = Images(np.zeros(len(data), np.uint64), np.full(len(data), -1))
        by_kind: dict[str, list[str]] = {}
        readable = 0

        def check(index: int) -> Checked:
            return self._checked(data, index, cases)

        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            for start in range(0, len(data), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(data)))
                for index, image in zip(chunk, pool.map(check, chunk), strict=True):
                    found.hashes[index], found.labels[index] = image.hash, image.label
                    found.turned += image.turned
                    readable += not any(
                        _REMEDIES[kind][1] == "bad_images" for kind, _ in image.cases
                    )
                    for kind, case in image.cases:
                        by_kind.setdefault(kind, []).append(case)
                    self.tell(index + 1, len(data))
        for kind, listed in sorted(by_kind.items()):
            found.problems += problems_of(kind, listed, *_REMEDIES[kind])
        if not readable:
            case = f"none of its {len(data)} images"
            found.problems += problems_of(_NONE_READABLE, [case], setting=None)
        return found

    def _checked(
        self, data: ImageDataset, index: int, cases: Callable[[Any, Size, str], Iterable[Case]]
    ) -> Checked:
        name = data.name(index)
        try:
            encoded, label = data.read(index)
        except UnreadableImage as error:
            if isinstance(error.__cause__, MissingFile):
                return Checked([(MISSING, error.name)])
            return Checked([(UNREADABLE, str(error))])
        digest = _hash(encoded)
        try:
            stored, orientation = self._read(encoded, name)
        except UnreadableImage as error:
            return Checked([(UNREADABLE, str(error))])
        try:
            annotated = data.annotated_size(label)
        except UnreadableImage as error:
            return Checked([(MASK_UNREADABLE, str(error))], digest)
        turned = orientation != 1 and self.exif == "upright"
        exif: list[Case] = []
        if turned and fits_stored_only(stored, orientation, annotated):
            exif, turned = [(STORED, name)], False
        elif turned and annotated == stored:
            exif = [(EITHER, name)]
        size = turned_size(stored, orientation) if turned else stored
        number = label if isinstance(label, int) else -1
        return Checked([*exif, *cases(label, size, name)], digest, turned, number)

    def _read(self, encoded: Encoded, name: str) -> tuple[Size, int]:
        """The size of an image as it is stored, and its EXIF orientation."""
        if not isinstance(encoded, bytes):
            return encoded.size, orientation_of(encoded)
        if self.headers_only:
            return header(encoded, name)
        image = decode_bytes(encoded, name, "ignore")
        return image.size, orientation_of(image)


def _hash(encoded: Encoded) -> int:
    content = encoded if isinstance(encoded, bytes) else encoded.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1
