"""Reads image files: only regular ones, turned upright, as RGB pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from kat.data.naming import IMAGE_FORMATS
from kat.errors import InputError
from kat.extras import require
from kat.files import read_bytes

Exif = Literal["upright", "ignore"]
"""Turn images as their EXIF orientation says, or take them as they are stored."""

Size = tuple[int, int]
"""Width and height in pixels."""

IMAGE_LIMIT = 1 << 30
"""The most bytes of an image file."""
PIXEL_LIMIT = 1 << 27
"""The most pixels of an image: 134 megapixels, which take 1.5 GB at most."""

_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
"""The bytes 4 to 12 of a HEIC file."""

# Pillow would print these for images that are read nevertheless.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "(Possibly c|C)orrupt EXIF data", UserWarning)


class UnreadableImage(InputError):
    """An image that cannot be read or decoded.

    Args:
        name: path of the file, or another name of the image.
        reason: what the decoder said.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data import UnreadableImage, decode
        >>> _ = Path("broken.png").write_bytes(b"not an image")
        >>> try:
        ...     decode("broken.png")
        ... except UnreadableImage as error:
        ...     print(error.name)
        broken.png
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}"


def read_image(path: str) -> bytes:
    """Read an image file, without decoding it.

    Raises:
        UnreadableFile: the file is missing, not a regular file, or too large.
    """
    return read_bytes(path, IMAGE_LIMIT)


def decode(path: str, exif: Exif = "upright") -> Image.Image:
    """Decode an image file of any mode, in one of ``kat.data.naming.IMAGE_FORMATS``, to RGB.

    Args:
        path: the path of the file.
        exif: see :func:`decode_bytes`.

    Raises:
        UnreadableImage: the file is missing, not a regular file, damaged or not an image.

    Examples:
        >>> from kat.data import decode
        >>> decode("photos/val/cat/0.png").size  # (width, height)
        (48, 40)
    """
    with as_unreadable(path):
        content = read_image(path)
    return decode_bytes(content, path, exif)


def decode_bytes(
    content: bytes,
    name: str,
    exif: Exif = "upright",
    annotated: Callable[[], Size | None] = lambda: None,
    *,
    rgb: bool = True,
) -> Image.Image:
    """Decode the bytes of an image file, as :func:`decode` does; the first frame of several.

    Args:
        content: the whole file.
        name: name of the image in errors.
        exif: ``"upright"`` turns the image as its EXIF orientation says, ``"ignore"`` does not.
            Pillow turns TIFF and HEIC files in either case.
        annotated: returns the size that the annotations of the image are for, or None. If only
            the stored pixels have this size, the image is not turned.
        rgb: convert to RGB; a mask keeps its mode.

    Raises:
        UnreadableImage: the bytes are damaged or not an image, or the image is too large.
    """
    with as_unreadable(name):
        image = _opened(content)
        image.load()
        return upright(as_rgb(image) if rgb else image, exif, annotated)


def header(content: bytes, name: str) -> tuple[Size, int]:
    """Return the size of an image as it is stored, and its EXIF orientation, without decoding it.

    Raises:
        UnreadableImage: the bytes are not an image, or the image is too large.
    """
    with as_unreadable(name):
        image = _opened(content)
        return image.size, orientation_of(image)


def is_transparent(encoded: bytes | Image.Image) -> bool:
    """Return True if an image, which can be decoded, has a pixel that is not opaque."""
    image = _opened(encoded) if isinstance(encoded, bytes) else encoded
    return image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255


@contextmanager
def as_unreadable(name: str) -> Iterator[None]:
    """Turn all errors of Pillow, which has nearly every kind, into :class:`UnreadableImage`."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "reason", str(error)) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its message is the address of an object
            reason = f"its format is none of {', '.join(IMAGE_FORMATS)}"
        raise UnreadableImage(name, reason.partition(", could be decompression")[0]) from error


def _opened(content: bytes) -> Image.Image:
    if not content:
        raise ValueError("it has no bytes")
    Image.init()
    if content[4:12] in _HEIC:
        require("pi_heif", "a HEIC image").register_heif_opener()
    formats = [name for name in IMAGE_FORMATS if name in Image.OPEN]
    image = Image.open(io.BytesIO(content), formats=formats)
    if image.width * image.height > PIXEL_LIMIT:
        raise ValueError(
            f"it has {image.width}x{image.height} pixels; an image may have {PIXEL_LIMIT:,}"
        )
    return image


def upright(
    image: Image.Image, exif: Exif, annotated: Callable[[], Size | None] = lambda: None
) -> Image.Image:
    """Turn a decoded image as its EXIF orientation says; see :func:`decode_bytes`."""
    orientation = 1 if exif == "ignore" else orientation_of(image)
    if orientation == 1 or annotated() == image.size != turned_size(image.size, orientation):
        return image
    return image.transpose(_TURNS[orientation])


def turned_size(size: Size, orientation: int) -> Size:
    """Return the size of an upright image, from the stored size and the EXIF orientation."""
    return size if orientation <= 4 else (size[1], size[0])


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turns that make an image upright, by its EXIF orientation."""


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if there is none, or if it is damaged."""
    if image.format == "TIFF":  # Pillow turns it itself
        return 1
    try:  # a PNG file's own method would decode the image
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises nearly every kind for damaged EXIF
        return 1
    return orientation if orientation in _TURNS else 1


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB: drop transparency, keep the upper 8 of 16 bits.

    An RGB image is not copied.

    Raises:
        ValueError: the pixels have 32 bits, whose range is unknown.
    """
    if image.mode == "RGB":
        return image
    info = image.info
    is_pgm = (image.mode, image.format) == ("I", "PPM")  # Pillow opens 16 bits so
    if image.mode in ("I", "F") and not is_pgm:
        raise ValueError("its pixels have 32 bits; convert it to 8 or 16 bits")
    if is_pgm or image.mode.startswith("I;16"):  # Pillow would turn all values above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image.info = info
    elif image.mode == "P" and "transparency" in image.info:  # direct conversion warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def rgb_of(image: Image.Image, name: str, exif: Exif) -> Image.Image:
    """Return an image that another library has decoded, as :func:`decode_bytes` returns it.

    Raises:
        UnreadableImage: it cannot be converted to RGB.
    """
    with as_unreadable(name):
        image.load()  # the file may be opened only
        return upright(as_rgb(image), exif)


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to grayscale for 1 channel, and to RGB for 3."""
    mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
    return image if image.mode == mode else image.convert(mode)
