"""Small sets of images in the formats of real ones, for tests."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

_MODES = ("RGB", "L", "CMYK")


def write_folder(root: Path, *, classes: int, train: int, val: int, seed: int = 0) -> None:
    """ROOT/{train,val}/nXX/*.jpg of differing sizes and modes; the class sets the mean colour."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"n{label:02}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                size = rng.integers(40, 300, 2)
                pixels = rng.integers(0, 120, (*size, 3)) + 12 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image = image.convert(_MODES[index % len(_MODES)])
                image.save(folder / f"{index}.jpg")


def write_idx(path: Path, array: np.ndarray) -> None:
    """A gzipped idx file of bytes."""
    header = struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_fashion_mnist(folder: Path, *, train: int, val: int) -> None:
    """The four files of Fashion-MNIST, with noise for images and labels 0..9 in turn."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", val)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
