"""Exported files: parity, plain operations alone, free batch and image sizes, refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import kat.deploy.export as export_module
from kat.deploy import export_model, freeze, make_resizable, open_model, quantize_int8
from kat.errors import ExportFailed, InputError
from tests.models.small import images, make_model

ENDINGS = ["pt2", "onnx"]


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("name", ["fixed.onnx", "resizable.pt2"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_logits_are_the_models(stored, name, count):
    opened, record = open_model(stored.folder / name)
    assert record == stored.record
    assert distance(opened(images(count)), stored.model(images(count))) < 1e-5


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (6, 20)])
@pytest.mark.parametrize("name", ["resizable.pt2", "resizable8.onnx"])
def test_sizes_are_free_where_the_model_allows(stored, name, size):
    want = make_resizable(stored.model, stored.record)
    if "8" in name:
        want = quantize_int8(freeze(want))
    opened, _ = open_model(stored.folder / name)
    assert distance(opened(images(2, *size)), want(images(2, *size))) < 1e-5


def test_int8_loses_at_most_half_a_step_of_each_row(stored):
    """q = round(w / s), s = max |w| / 127 a row."""
    frozen = freeze(stored.model)
    quantized = quantize_int8(frozen)
    linears = {n: m for n, m in frozen.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) == 9
    for name, linear in linears.items():
        held = quantized.get_submodule(name).weight.dequantize()
        step = linear.weight.abs().amax(1, keepdim=True) / 127
        assert ((held - linear.weight).abs() <= 0.51 * step).all()
        assert not torch.equal(held, linear.weight)
    assert distance(quantized(images(4)), stored.model(images(4))) < 0.1


def test_int8_files_hold_the_weights_in_int8(stored):
    """The ONNX optimiser makes floats of those with fewer than 8192 entries again."""
    shapes = [tuple(m.weight.shape) for m in stored.model.modules() if isinstance(m, nn.Linear)]
    tensors = torch.export.load(stored.folder / "fixed8.pt2").state_dict.values()
    held = [tuple(tensor.shape) for tensor in tensors if tensor.dtype == torch.int8]
    assert all(held.count(shape) >= shapes.count(shape) for shape in shapes)
    initializers = onnx.load(stored.folder / "resizable8.onnx").graph.initializer
    held = [tuple(t.dims)[::-1] for t in initializers if t.data_type == onnx.TensorProto.INT8]
    assert sorted(held) == sorted(shape for shape in shapes if math.prod(shape) > 8192)
    assert len(held) == 6


def test_onnx_is_standard_operators_and_says_what_it_takes(stored):
    shapes = {}
    for name in ("fixed", "resizable8"):
        path = stored.folder / f"{name}.onnx"
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
        session = onnxruntime.InferenceSession(path)
        shapes[name] = session.get_inputs()[0].shape
        logits = session.run(None, {"images": np.zeros((5, 1, 8, 8), np.float32)})[0]
        assert logits.shape == (5, 3)
    assert shapes == {"fixed": ["batch", 1, 8, 8], "resizable8": ["batch", 1, "height", "width"]}


def test_a_pt2_file_runs_in_a_program_without_kat(stored):
    code = f"""
import json, sys, torch
files = {{"kat": ""}}
program = torch.export.load({str(stored.folder / "resizable.pt2")!r}, extra_files=files)
assert all("kat" not in str(node.target) for node in program.graph.nodes if node.op[:4] == "call")
logits = program.module()(torch.arange(128.0).reshape(2, 1, 8, 8).sin())
record = json.loads(files["kat"])
print(json.dumps([logits.tolist(), record["label_names"], "kat" in sys.modules]))
"""
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, cwd=stored.folder,
    )  # fmt: skip
    logits, names, has_kat = json.loads(printed.stdout)
    want = stored.model(torch.arange(128.0).reshape(2, 1, 8, 8).sin())
    assert distance(torch.tensor(logits), want) < 1e-5
    assert names == ["ant", "bee", "cat"]
    assert not has_kat


@pytest.mark.parametrize("name", ["fixed.onnx", "resizable.pt2"])
def test_no_path_of_this_machine_is_in_the_file(stored, name):
    path = stored.folder / name
    contents = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(entry) for entry in archive.namelist()]
    sources = [str(Path(export_module.__file__).parents[2]), "site-packages", ".py"]
    assert not any(text.encode() in content for content in contents for text in sources)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_export_with_other_answers_is_not_kept(tmp_path, monkeypatch, ending):
    model, record = make_model()
    path = tmp_path / f"m.{ending}"
    path.write_bytes(b"kept")

    def wrong(model):
        frozen = freeze(model)
        frozen.blocks[1].mlp.act2.numerator[0, 2] += 1e-2
        return frozen

    monkeypatch.setattr(export_module, "freeze", wrong)
    with pytest.raises(ExportFailed, match="was not kept: its logits are"):
        export_model(model, record, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"kept"


def test_a_model_with_nan_is_not_exported(tmp_path):
    model, record = make_model()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(InputError, match="own answers are not finite"):
        export_model(model, record, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_bad_targets_and_models(tmp_path):
    model, record = make_model()
    with pytest.raises(InputError, match=r"unknown ending of an exported file 'onx'.*'onnx'"):
        export_model(model, record, tmp_path / "m.onx")
    with pytest.raises(InputError, match="does not exist"):
        export_model(model, record, tmp_path / "missing" / "m.pt2")

    class Untraceable(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, : 3 + int(images.sum() > 1e9)]

    with pytest.raises(InputError, match="cannot trace kat_micro"):
        export_model(Untraceable(), record, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "ending", "int8"),
    [("onnx", "onnx", False), ("onnxscript", "onnx", False), ("torchao.quantization", "pt2", True)],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, ending, int8):
    model, record = make_model()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs the package {package}.*\[export\]"):
        export_model(model, record, tmp_path / f"m.{ending}", int8=int8)
    assert not list(tmp_path.iterdir())
