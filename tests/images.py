"""Small image folders in ImageNet's layout, for tests."""

from __future__ import annotations

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
