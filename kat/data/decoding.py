"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError


class UnreadableImage(Exception):
    """An image that cannot be decoded.

    Args:
        name: the file's path, or what else names the image.
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}"


def decode(path: str) -> Image.Image:
    """The image in a file, as RGB whatever its format and mode.

    Raises:
        UnreadableImage: the file is missing, damaged, or not an image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, str(error)) from error
    return decode_bytes(content, path)


def decode_bytes(content: bytes, name: str) -> Image.Image:
    """The image that the bytes of a file are, as RGB whatever its format and mode.

    Args:
        content: the whole file.
        name: what the error calls the image.

    Raises:
        UnreadableImage: the bytes are damaged, or not an image.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return as_rgb(image)
    except Exception as error:  # of damaged files Pillow raises nearly every kind
        raise UnreadableImage(name, _reason(error, content)) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB: transparency is dropped, of 16 bits the upper 8 are kept.

    An image that is RGB already is not copied.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would make everything above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:  # the direct way warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """The image in grey for 1 channel, as RGB for 3, as it is for another number."""
    mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "it has no bytes"
    if isinstance(error, UnidentifiedImageError):  # whose message is the address of an object
        return f"it is of no known format; its first bytes are {content[:8]!r}"
    return str(error) or type(error).__name__
