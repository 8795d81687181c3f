"""Streams of images."""

from __future__ import annotations

import pytest

from kat.data.stream import ImageStream
from kat.errors import InputError


def test_a_part_without_images_is_an_error_not_an_endless_loop():
    stream = ImageStream(lambda epoch, part: iter(()), 8, ["0"], batch_size=4)
    with pytest.raises(InputError, match="part 1 of 1 of the stream is empty"):
        list(stream)
