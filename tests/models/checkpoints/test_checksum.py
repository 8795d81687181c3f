"""Files that carry their own checksum."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
import torch

from kat.errors import InputError
from kat.models.checkpoints.checksum import verify_checksum, write_checksum


@pytest.fixture
def with_checksum(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"weights": torch.arange(1000.0), "name": "x"}, path)
    before = path.read_bytes()
    write_checksum(path)
    return path, before


def test_the_comment_of_the_archive_is_the_checksum_of_the_file_before(with_checksum):
    path, before = with_checksum
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(1000.0))
    assert torch.load(path, weights_only=True, mmap=True)["name"] == "x"
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == b"sha256:" + hashlib.sha256(before).hexdigest().encode()
        assert archive.testzip() is None
    assert verify_checksum(path) == hashlib.sha256(before).hexdigest()


@pytest.mark.parametrize("place", [0, 100, -500, -80, -5])
def test_one_changed_byte_is_detected(with_checksum, place):
    path, _ = with_checksum
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum does not"):
        verify_checksum(path)


def test_a_truncated_file_has_lost_its_checksum(with_checksum):
    path, before = with_checksum
    content = path.read_bytes()
    for kept in (b"", content[:50], content[:1000], content[:-1], before):
        path.write_bytes(kept)
        assert verify_checksum(path) == ""
