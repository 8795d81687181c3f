"""Opening stored models, and refusing other files."""

from __future__ import annotations

import sys

import onnx
import pytest
import torch

from kat.deploy import Runtime, open_file, open_model
from kat.errors import InputError
from tests.damage import with_a_flipped_bit
from tests.models.small import images

pytestmark = pytest.mark.slow


def test_all_kinds_open_alike(stored):
    for name in ("folder", "fixed.onnx", "resizable.pt2"):
        opened, record = open_model(stored.file(name), trust=True)
        assert isinstance(opened, Runtime) == (name != "folder")
        assert record == stored.record
        opened.train().eval()
        for count in (1, 7):
            want = stored.model(images(count))
            torch.testing.assert_close(opened(images(count)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("fixed.onnx", 12, "1 channels and 8x8 pixels, got 1x12x12"),
        ("resizable.pt2", 13, "any multiple of 2x2 pixels, got 1x13x13"),
        ("folder", 13, "any multiple of 2x2 pixels, got 1x13x13"),
    ],
)
def test_a_size_that_the_model_does_not_take(stored, name, size, message):
    with pytest.raises(InputError, match=message):
        open_model(stored.file(name), size, trust=True)
    if name != "folder":
        opened, _ = open_model(stored.file(name), trust=True)
        for shape in ((2, 3, 8, 8), (2, 1, 7, 8)):
            with pytest.raises(InputError, match="1 channels"):
                opened(torch.zeros(shape))


@pytest.mark.parametrize("name", ["resizable.pt2", "fixed.onnx"])
def test_missing_damaged_and_foreign_files(stored, tmp_path, name):
    path, content = tmp_path / name, (stored.file(name)).read_bytes()
    with pytest.raises(InputError, match="does not exist"):
        open_model(path, trust=True)
    half = len(content) // 2
    changed = content[:half] + bytes(64) + content[half + 64 :]
    for damaged in (b"", content[:half], b"GIF89a", changed):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=str(path)):
            open_model(path, trust=True)


def test_files_without_our_record(stored, tmp_path):
    model = onnx.load(stored.file("fixed.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "m.pt2")
    for name in ("m.onnx", "m.pt2"):
        with pytest.raises(InputError, match="not written by"):
            open_model(tmp_path / name, trust=True)


def test_no_changed_bit_of_an_onnx_file_is_overlooked(stored, tmp_path):
    content = (stored.file("fixed.onnx")).read_bytes()
    path = tmp_path / "m.onnx"
    for changed in with_a_flipped_bit(content, 40):
        path.write_bytes(changed)
        with pytest.raises(InputError, match="damaged"):
            open_model(path)
    path.write_bytes(content[:-76])  # the entry with the checksum
    with pytest.raises(InputError, match="no record"):
        open_model(path)
    onnx.checker.check_model(onnx.load(stored.file("fixed.onnx")))


def test_onnxruntime_may_be_missing(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime"):
        open_model(stored.file("fixed.onnx"))


@pytest.mark.parametrize("name", ["model.txt", "model.safetensors"])
def test_another_ending_is_named(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=name[6:]):
        open_file(tmp_path / name)
