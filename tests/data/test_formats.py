"""Image files in formats that are not read, PostScript among them: no source starts Ghostscript."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, features

from kat.data import UnreadableImage, decode
from tests.images import encoded, noise

NONE_OF = "its format is none of JPEG, PNG, "


@pytest.fixture(autouse=True)
def never_ghostscript(tmp_path_factory, monkeypatch):
    """A program ``gs``, the first in PATH, that says when it is started; it must not be."""
    folder = tmp_path_factory.mktemp("programs")
    started = folder / "started"
    program = folder / "gs"
    program.write_text(f"#!{sys.executable}\nopen({str(started)!r}, 'w')\nprint('10.0')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # what Pillow has found out before
    yield
    assert not started.exists()


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "DDS"])
def test_other_formats_of_pillow_are_unreadable(tmp_path, kind):
    (tmp_path / "good.jpg").write_bytes(encoded(noise(), kind))
    with pytest.raises(UnreadableImage, match=rf"good\.jpg .*: {NONE_OF}"):
        decode(str(tmp_path / "good.jpg"))


@pytest.mark.parametrize(
    "kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"]
)
def test_formats_of_photographs_are_read_by_their_content(tmp_path, kind):
    needed = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    if kind in needed and not features.check(needed[kind]):
        pytest.skip(f"Pillow is without {kind}")
    path = tmp_path / "good.jpg"
    path.write_bytes(encoded(noise(), kind))
    assert decode(str(path)).size == (64, 48)


def test_heic_is_read_with_pi_heif_and_its_extra_is_named_without(monkeypatch):
    path = Path(__file__).with_name("photograph.heic")  # its left half is red
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pi_heif", None)
        with pytest.raises(UnreadableImage, match=r"needs the package pi-heif: .*\[train\]"):
            decode(str(path))
    pytest.importorskip("pi_heif", reason="HEIC files are read with pi-heif")
    image = decode(str(path))
    assert image.size == (64, 48)
    np.testing.assert_allclose(image.getpixel((5, 5)), (255, 0, 0), atol=8)
