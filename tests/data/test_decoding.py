"""Images of any format become RGB, and damaged ones an error with a reason."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from kat.data import UnreadableImage, decode
from kat.data.decoding import decode_bytes, header, turned_size
from tests.images import damaged_images, encoded, noise, odd_images, png_header, turned


@pytest.mark.parametrize(("kind", "content"), damaged_images().items())
def test_damaged_images_are_named_with_a_reason(tmp_path, kind, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg cannot be") as caught:
        decode(str(tmp_path / "bad.jpg"))
    assert "0x" not in caught.value.reason.replace(repr(content[:8]), "")


@pytest.mark.parametrize("kind", odd_images())
def test_odd_images_are_converted_without_a_warning(kind):
    content, pixels = odd_images()[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_bytes(content, kind)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(kind, orientation):
    content = turned(noise(), orientation, kind)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = decode_bytes(content, kind)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.convert("RGB")))
    stored, found = header(content, kind)
    assert turned_size(stored, found) == image.size == (64, 48)


def test_exif_is_ignored_where_the_settings_or_the_annotations_say_so():
    content = turned(noise())
    assert decode_bytes(content, "", "ignore").size == (48, 64)
    sizes = {None: (64, 48), (64, 48): (64, 48), (48, 64): (48, 64), (9, 9): (64, 48)}
    for annotated, size in sizes.items():
        assert decode_bytes(content, "", "upright", lambda given=annotated: given).size == size


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg", 300 * "a", "/dev/zero"])
def test_names_that_no_image_can_have(name):
    with pytest.raises(UnreadableImage):
        decode(name)


def test_huge_files_and_images_are_refused_before_they_take_memory(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**42)
    with pytest.raises(UnreadableImage, match=r"4\.398 TB"):
        decode(str(tmp_path / "sparse.jpg"))
    for side, reason in ((12_000, "it has 12000x12000 pixels"), (2**20, "exceeds limit")):
        with pytest.raises(UnreadableImage, match=reason):
            decode_bytes(png_header(side, side), "bomb.png")


@pytest.mark.parametrize("largest", [4095, 65535])
def test_a_pgm_of_16_bits_keeps_the_upper_8(largest):
    values = [0, largest // 2 + 1, largest]
    content = b"P5 3 1 %d\n" % largest + b"".join(v.to_bytes(2, "big") for v in values)
    pixels = np.asarray(decode_bytes(content, "a.pgm"))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_32_bits_is_refused_not_clipped(dtype):
    image = Image.fromarray(np.full((2, 2), 0.5 if dtype is np.float32 else 70_000, dtype))
    with pytest.raises(UnreadableImage, match="32 bits"):
        decode_bytes(encoded(image, "TIFF"), "a.tif")
