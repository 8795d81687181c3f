"""Images of any format become RGB, and damaged ones an error with a reason."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from kat.data import (
    UnreadableImage,
    decode,
)
from kat.data.decoding import as_rgb, decode_bytes
from tests.images import (
    damaged_images,
    encoded,
    noise,
    odd_images,
)


@pytest.mark.parametrize(("kind", "content"), damaged_images().items())
def test_damaged_images_are_named_with_a_reason(tmp_path, kind, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg cannot be read as an image: .") as caught:
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


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match=r"absent\.jpg"):
        decode(str(tmp_path / "absent.jpg"))


def test_decoding_yields_the_pixels_of_torchvisions_loader(tmp_path):
    """torchvision and timm open an image, then convert it."""
    from torchvision.datasets.folder import pil_loader

    for kind, mode in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("WEBP", "RGB")):
        path = tmp_path / f"{mode}.{kind.lower()}"
        path.write_bytes(encoded(noise(mode), kind))
        theirs = np.asarray(pil_loader(str(path)))
        np.testing.assert_array_equal(np.asarray(decode(str(path))), theirs)


def test_an_rgb_image_is_not_copied():
    image = noise()
    assert as_rgb(image) is image


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 torn"])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg"):
        decode(str(path))


def test_truncated_image_is_unreadable(tmp_path):
    path = tmp_path / "half.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UnreadableImage):
        decode(str(path))
