"""Exported files: the model's outputs at any batch and image size, and refusals."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import kat.deploy.export as export_module
from kat.deploy import ExportRecord, export_model, freeze, make_resizable, open_model, quantize_int8
from kat.errors import ExportFailed
from tests.deploy.distance import distance
from tests.models.small import images, make_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["resizable.pt2", pytest.param("resizable8.onnx", marks=pytest.mark.release)]
)
def test_image_sizes_are_dynamic_if_the_model_allows(stored, name):
    want = make_resizable(stored.model, stored.record)
    if "8" in name:
        want = quantize_int8(freeze(want))
    opened, _ = open_model(stored.file(name), trust=True)
    for size in ((8, 8), (12, 8), (6, 20)):
        assert distance(opened(images(2, *size)), want(images(2, *size))) < 1e-5


def test_int8_files_hold_the_weights_in_int8(stored):
    """The ONNX optimizer converts those with fewer than 8192 entries back to floats."""
    shapes = [tuple(m.weight.shape) for m in stored.model.modules() if isinstance(m, nn.Linear)]
    tensors = torch.export.load(stored.file("fixed8.pt2")).state_dict.values()
    held = [tuple(tensor.shape) for tensor in tensors if tensor.dtype == torch.int8]
    assert all(held.count(shape) >= shapes.count(shape) for shape in shapes)
    initializers = onnx.load(stored.file("resizable8.onnx")).graph.initializer
    held = [tuple(t.dims)[::-1] for t in initializers if t.data_type == onnx.TensorProto.INT8]
    assert sorted(held) == sorted(shape for shape in shapes if math.prod(shape) > 8192)
    assert len(held) == 3


@pytest.mark.parametrize("name", ["fixed.onnx", "resizable.pt2"])
def test_no_path_of_this_machine_is_in_the_file(stored, name):
    path = stored.file(name)
    contents = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(entry) for entry in archive.namelist()]
    sources = [str(Path(export_module.__file__).parents[2]), "site-packages", ".py"]
    assert not any(text.encode() in content for content in contents for text in sources)


def test_an_export_with_other_outputs_is_not_kept(tmp_path, monkeypatch):
    model, record = make_model(depth=1)
    path = tmp_path / "m.pt2"
    path.write_bytes(b"kept")

    def wrong(model):
        frozen = freeze(model)
        frozen.blocks[0].mlp.act2.numerator[0, 2] += 1e-2
        return frozen

    monkeypatch.setattr(export_module, "freeze", wrong)
    with pytest.raises(ExportFailed, match="not kept"):
        export_model(model, record, path)
    model.head.bias.detach()[0] = torch.nan
    with pytest.raises(ExportFailed, match="by nan"):
        export_model(model, record, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"kept"


@pytest.mark.release
def test_a_head_of_zeros_is_exported(tmp_path):
    model, record = make_model(depth=1)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    export_model(model.eval(), record, tmp_path / "zeros.pt2")
    assert not open_model(tmp_path / "zeros.pt2", trust=True)[0](images(2)).any()


def test_int8_loses_at_most_half_a_step_of_each_row(stored):
    """q = round(w / s), s = max |w| / 127 a row."""
    frozen = freeze(stored.model)
    quantized = quantize_int8(frozen)
    linears = {n: m for n, m in frozen.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) == 5
    for name, linear in linears.items():
        held = quantized.get_submodule(name).weight.dequantize()
        step = linear.weight.abs().amax(1, keepdim=True) / 127
        assert ((held - linear.weight).abs() <= 0.51 * step).all()
        assert not torch.equal(held, linear.weight)
    assert distance(quantized(images(4)), stored.model(images(4))) < 0.1


def test_the_record_is_read_as_it_was_written():
    run = {"data": {"name": "folder:x", "holdout": 0.1, "validate_on": "split"}, "seed": 3}
    record = ExportRecord(make_model()[1], None, "segmentation", run)
    assert ExportRecord.from_json(record.to_json(), "new") == record
