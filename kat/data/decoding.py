"""Decoding image files to RGB pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from kat.errors import UnreadableFile
from kat.files import read_bytes

IMAGE_LIMIT = 1 << 30
"""The most bytes of an image file."""


class UnreadableImage(Exception):
    """An image that cannot be read or decoded.

    Args:
        name: path of the file, or another name of the image.
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}"


def read_image(path: str) -> bytes:
    """Reads an image file, without decoding it.

    Raises:
        UnreadableFile: the file is missing, not a regular file, or too large.
    """
    return read_bytes(path, IMAGE_LIMIT)


def decode(path: str) -> Image.Image:
    """Decodes an image file of any format and mode to RGB.

    Raises:
        UnreadableImage: the file is missing, damaged or not an image.
    """
    try:
        content = read_image(path)
    except UnreadableFile as error:
        raise UnreadableImage(path, error.reason) from error
    return decode_bytes(content, path)


def decode_bytes(content: bytes, name: str) -> Image.Image:
    """Decodes the bytes of an image file of any format and mode to RGB.

    Args:
        content: the whole file.
        name: name of the image in errors.

    Raises:
        UnreadableImage: the bytes are damaged or not an image.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return as_rgb(image)
    except Exception as error:  # Pillow raises nearly every kind for damaged files
        raise UnreadableImage(name, _reason(error, content)) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to RGB: drops transparency, keeps the upper 8 of 16 bits.

    An RGB image is not copied.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would turn all values above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:  # direct conversion warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to grayscale for 1 channel, and to RGB for 3."""
    mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "it has no bytes"
    if isinstance(error, UnidentifiedImageError):  # its message is the address of an object
        return f"its format is unknown; its first bytes are {content[:8]!r}"
    return str(error) or type(error).__name__
