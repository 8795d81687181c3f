"""Small sets of images in the formats of real ones, for tests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

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


def write_photos(root: Path, train: int, val: int) -> None:
    """ROOT/{train,val}/{cat,dog}/*.png of 48 x 40 noise, in which dogs are brighter."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for shift, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 128, (40, 48, 3)) + 100 * shift
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index}.png")


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


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], **options: int) -> None:
    """A tar file with these members; a name that ends in / is a directory's entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            tar.addfile(entry, io.BytesIO(content))


def samples(images: Iterable[bytes], start: int = 0) -> list[tuple[str, bytes]]:
    """The members of a WebDataset shard: images named 0000.jpg and so on, and labels 0, 1 in turn.

    ``start`` is the first number, where names and labels go on from another shard.
    """
    files = []
    for index, content in enumerate(images, start):
        files += [(f"{index:04}.jpg", content), (f"{index:04}.cls", b"%d" % (index % 2))]
    return files


def write_rows(folder: Path, splits: dict[str, list[bytes]]) -> None:
    """A folder of parquet files for Hugging Face's datasets, one a split, with a card.

    Labels are cat and dog in turn.
    """
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    folder.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    for split, images in splits.items():
        rows = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": content, "path": None} for content in images],
                "label": [index % 2 for index in range(len(images))],
            },
            features=features,
        )
        rows.to_parquet(folder / f"{split}-00000.parquet")
    counts = "".join(f"\n  - name: {s}\n    num_examples: {len(i)}" for s, i in splits.items())
    (folder / "README.md").write_text(_CARD + counts + "\n---\n")


_CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
  splits:"""


def picture(number: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A JPEG whose colour is its number's."""
    return encoded(Image.new("RGB", size, (40 * number % 256, 80, 120)), "JPEG")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file that an image is written as."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    """A 64x48 image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def damaged_images() -> dict[str, bytes]:
    """Files that no decoder can make an image of."""
    jpeg, png = encoded(noise(), "JPEG"), encoded(noise(), "PNG")
    middle = png.index(b"IDAT") + 40
    return {
        "no bytes": b"",
        "text": b"this is not a picture\n" * 30,
        "a truncated JPEG": jpeg[: len(jpeg) // 2],
        "a JPEG's first bytes": jpeg[:20],
        "a truncated PNG": png[: len(png) // 2],
        "a broken PNG chunk": png[:middle] + bytes(200) + png[middle + 200 :],
        "a decompression bomb": png_header(60_000, 60_000),
        "zeros": bytes(1000),
        "PostScript, which Pillow renders by Ghostscript": encoded(noise(), "EPS"),
    }


def odd_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """Images of unusual modes, each with the pixels, (48, 64, 3) uint8, that they must give."""
    rgb = noise()
    grey16 = np.random.default_rng(0).integers(0, 2**16, (48, 64)).astype(np.uint16)
    palette = rgb.convert("P")
    absurd = encoded(rgb, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 50)
    jpeg = Image.open(io.BytesIO(encoded(rgb.convert("CMYK"), "JPEG"))).convert("RGB")
    upper = (grey16 // 256).astype(np.uint8)
    return {
        "CMYK": (encoded(rgb.convert("CMYK"), "JPEG"), np.asarray(jpeg)),
        "16 bits": (encoded(Image.fromarray(grey16), "PNG"), np.stack([upper] * 3, -1)),
        "a palette with transparency": (
            encoded(palette, "PNG", transparency=bytes(range(256))),
            np.asarray(palette.convert("RGB")),
        ),
        "transparency": (encoded(rgb.convert("RGBA"), "PNG"), np.asarray(rgb)),
        "one bit": (encoded(rgb.convert("1"), "PNG"), np.asarray(rgb.convert("1").convert("RGB"))),
        "absurd EXIF": (absurd, np.asarray(rgb)),
        "EXIF that says rotated": (turned(rgb), np.asarray(rgb)),
        "16 bits, rotated": (turned(Image.fromarray(grey16)), np.stack([upper] * 3, -1)),
    }


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims to be of this size."""
    header = png_chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100)))


def turned(image: Image.Image, orientation: int = 6, kind: str = "PNG") -> bytes:
    """The file of a camera held at an angle: turned pixels, and the EXIF that turns them back."""
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = back
    stored = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(image, "PNG", exif=exif))))
    exif[0x0112] = orientation
    return encoded(stored, kind, exif=exif)
