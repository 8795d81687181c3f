"""Small segmentation datasets in the three layouts."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.images import png_chunk

SIZE = (20, 30)
"""Height and width of the images."""


def halves(left: int, right: int) -> np.ndarray:
    """A mask of one value on the left and another on the right."""
    values = np.full(SIZE, left, np.uint8)
    values[:, 15:] = right
    return values


def write_ade20k(root: Path, *, table: bool = True) -> None:
    """Writes two classes, sky and car; two images per split: 0 | 1 and 1 | 2."""
    for split in ("training", "validation"):
        for number, mask in enumerate((halves(0, 1), halves(1, 2))):
            _image(root / "images" / split / f"ADE_{number}.jpg")
            _mask(root / "annotations" / split / f"ADE_{number}.png", mask)
    if table:
        rows = "Idx\tRatio\tTrain\tVal\tName\n1\t.6\t9\t9\tsky, heaven\n2\t.4\t9\t9\tcar;auto\n"
        (root / "objectInfo150.txt").write_text(rows)


def write_voc(root: Path) -> None:
    """Writes three images with palette masks; two for training, one for validation."""
    for number, mask in enumerate((halves(0, 15), halves(255, 20), halves(3, 0))):
        _image(root / "JPEGImages" / f"2007_{number}.jpg")
        _mask(root / "SegmentationClass" / f"2007_{number}.png", mask, palette=True)
    _image(root / "JPEGImages" / "of_boxes_only.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_0\n")
    (lists / "val.txt").write_text("2007_2\n")


def write_pairs(root: Path) -> None:
    """Writes three classes; two images per split: 0 | 1 and 2 | 255."""
    for split in ("train", "val"):
        for number, mask in enumerate((halves(0, 1), halves(2, 255))):
            _image(root / split / "images" / f"{number}.png")
            _mask(root / split / "masks" / f"{number}.png", mask)
    (root / "classes.txt").write_text("road\ngrass\nsky\n")


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0]), (200, 100, 50)).save(path)


def _mask(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)


def gray_png(values: np.ndarray, bits: int) -> bytes:
    """A gray PNG of so many bits for each pixel, written by hand; rows fill whole bytes."""
    height, width = values.shape
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((values[..., None] >> shifts & 1).reshape(height, -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)
