"""Files that carry their own checksum."""

from __future__ import annotations

import hashlib
import os
import zipfile

import pytest
import torch

from kat.checksum import check_seal, keep_as, seal
from kat.errors import InputError


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"weights": torch.arange(1000.0), "name": "x"}, path)
    before = path.read_bytes()
    seal(path)
    return path, before


def test_a_sealed_file_is_an_archive_whose_comment_is_the_checksum_of_what_it_was(sealed):
    path, before = sealed
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(1000.0))
    assert torch.load(path, weights_only=True, mmap=True)["name"] == "x"
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == b"sha256:" + hashlib.sha256(before).hexdigest().encode()
        assert archive.testzip() is None
    check_seal(path, required=True)


@pytest.mark.parametrize("place", [0, 100, -500, -80, -5])
def test_one_changed_byte_is_noticed(sealed, place):
    path, _ = sealed
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ckpt is damaged: its checksum is not that of its"):
        check_seal(path)


@pytest.mark.parametrize("kept", [0, 1, 50, 1000, -1])
def test_a_torn_file_is_noticed(sealed, kept):
    path, _ = sealed
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.ckpt is damaged"):
        check_seal(path, required=True)


def test_a_file_without_a_seal_passes_unless_one_is_required(tmp_path):
    path = tmp_path / "b.ckpt"
    torch.save({}, path)
    check_seal(path)
    with pytest.raises(InputError, match="the checksum at its end is missing"):
        check_seal(path, required=True)
    with pytest.raises(InputError, match="cannot be read"):
        check_seal(tmp_path / "none.ckpt")


@pytest.mark.parametrize("links", [True, False])
def test_kept_contents_outlive_the_file_they_were_of(tmp_path, monkeypatch, links):
    def refused(*_):
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path, other = tmp_path / "last", tmp_path / "previous"
    path.write_text("1")
    for _ in range(2):  # again, as after a crash between this and the next writing
        keep_as(path, other)
    fresh = tmp_path / "fresh"
    fresh.write_text("2")
    os.replace(fresh, path)
    assert (path.read_text(), other.read_text()) == ("2", "1")
    assert {p.name for p in tmp_path.iterdir()} == {"last", "previous"}
