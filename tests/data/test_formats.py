"""Image files in formats that are not read, PostScript among them: no source starts Ghostscript."""

from __future__ import annotations

import sys

import pytest
from PIL import EpsImagePlugin, features

from kat.data import DataConfig, UnreadableImage, decode, open_split
from kat.data.check import check_split
from tests.data.dense.coco_files import write_coco
from tests.data.dense.mask_files import write_pairs
from tests.images import (
    encoded,
    noise,
    picture,
    postscript,
    samples,
    write_info,
    write_rows,
    write_tar,
)

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


def _folder(root):
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            (root / split / label / "0.jpg").write_bytes(picture())
    (root / "val" / "cat" / "good.jpg").write_bytes(postscript())
    return DataConfig(f"folder:{root}")


def _image_folder(root):
    _folder(root)
    return DataConfig("torch/image_folder", root=str(root), val_split="val")


def _tar(root):
    files = [("cat/0.jpg", picture()), ("dog/0.jpg", picture())]
    write_tar(root / "train.tar", files)
    write_tar(root / "val.tar", [*files, ("cat/good.jpg", postscript())])
    return DataConfig(f"tar:{root}")


def _shards(root):
    write_tar(root / "train-0.tar", samples([picture(), picture()]))
    write_tar(root / "val-0.tar", samples([postscript(), picture()]))
    return DataConfig(f"wds:{root}")


def _rows(root):
    pytest.importorskip("datasets", reason="datasets is not installed")
    write_rows(root / "rows", {"train": [picture()] * 2, "validation": [postscript(), picture()]})
    return DataConfig(f"hf:{root / 'rows'}", root=str(root / "cache"))


def _coco(root):
    write_coco(root)
    (root / "val2017" / "c.jpg").write_bytes(postscript())
    return DataConfig(f"coco:{root}")


def _images_of_masks(root):
    write_pairs(root)
    (root / "val" / "images" / "0.png").write_bytes(postscript())
    return DataConfig(f"masks:{root}")


def _masks(root):
    write_pairs(root)
    (root / "val" / "masks" / "0.png").write_bytes(postscript())
    return DataConfig(f"masks:{root}")


@pytest.mark.parametrize(
    "write", [_folder, _image_folder, _tar, _shards, _rows, _coco, _images_of_masks, _masks]
)
def test_postscript_in_a_source_is_unreadable_and_the_others_are_read(write, tmp_path):
    config = write(tmp_path)
    data = open_split(config, "val")
    reasons = []
    for index in range(len(data)):
        try:
            data[index]
        except UnreadableImage as error:
            reasons.append(error.reason)
    assert len(reasons) == 1 < len(data)
    assert reasons[0].startswith(NONE_OF)
    listed = [case for problem in check_split(config, "val").problems for case in problem.cases]
    assert any(NONE_OF in case for case in listed)


def test_postscript_in_a_stream_is_unreadable(tmp_path):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    write_tar(tmp_path / "val-0.tar", samples([postscript(), picture()]))
    write_info(tmp_path, "validation", {"val-0.tar": 2})
    bad, (image, label) = open_split(DataConfig("wds/x", root=str(tmp_path), num_classes=2), "val")
    assert bad.reason.startswith(NONE_OF)
    assert (image.size, label) == ((40, 30), 1)


@pytest.mark.parametrize("kind", ["EPS", "ICNS", "PCX", "TGA", "DDS"])
def test_other_formats_of_pillow_are_unreadable(tmp_path, kind):
    (tmp_path / "good.jpg").write_bytes(encoded(noise("RGBA" if kind == "ICNS" else "RGB"), kind))
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
