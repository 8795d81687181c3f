"""Small datasets in arrays: scikit-learn's digits and Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kat.data.dataset import ImageDataset
from kat.files import open_input

FASHION_MNIST_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
_LIMIT = 1 << 26
"""The most bytes of a file; the largest has 47 MB."""
_GARMENTS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


def open_digits(split: str) -> ImageDataset:
    """Open a split of scikit-learn's 1797 handwritten digits, 8x8 grayscale.

    The split is fixed: 80/20, stratified by class.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, val = train_test_split(
        np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target
    )
    chosen = np.sort(train if split == "train" else val)
    pixels = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return _grayscale(pixels, digits.target[chosen], names, mean=0.3054, std=0.3758)


def open_fashion_mnist(folder: Path, split: str) -> ImageDataset:
    """Open a split of Fashion-MNIST (Xiao et al. 2017) from its four gzipped idx files."""
    prefix = "train" if split == "train" else "t10k"
    pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    return _grayscale(pixels, labels, _GARMENTS, mean=0.2860, std=0.3530)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read bytes in the idx format: 0, 0, 8, rank; the sizes as big-endian int32; the data."""
    hint = "install Debian's dataset-fashion-mnist, or give the folder with the four .gz files"
    opened = open_input(path, if_missing=f"{hint} as fashion_mnist:PATH")
    with opened as file, gzip.open(file) as unpacked:
        content = unpacked.read(_LIMIT)  # not more, however far it unpacks
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _grayscale(
    pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, mean: float, std: float
) -> ImageDataset:
    size = pixels.shape[1], pixels.shape[2]
    source = ArraySource(pixels, labels)
    return ImageDataset(source, classes, channels=1, image_size=size, mean=(mean,), std=(std,))


@dataclass(frozen=True)
class ArraySource:
    """Grayscale images in an array.

    Args:
        pixels: (images, height, width) uint8.
        labels: (images,), class indices.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the number of the image, which has no other name."""
        return f"image {index} of the split"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Read the image and its label."""
        return Image.fromarray(self.pixels[index]), int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """Return the pixels, in the place of names, and the labels."""
        return [self.pixels, self.labels]
