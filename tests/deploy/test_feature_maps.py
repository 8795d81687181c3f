"""Backbones of models for dense tasks as files: the maps of each stride, by name."""

from __future__ import annotations

import onnxruntime
import pytest
import torch

import kat.deploy.export as export_module
from kat.deploy import ExportRecord, FeatureMaps, export_model, freeze, open_file, open_model
from kat.errors import ExportFailed, InputError
from kat.models import build_model
from tests.models.small import record_of

pytestmark = pytest.mark.slow

SIDE = 48
ARGS = {
    "embed_dim": 32,
    "num_heads": 2,
    "depth": 2,
    "window": 5,
    "global_blocks": [1],
    "channels": 16,
}
SCALES = {"kat_det_micro": [2.0, 1.0], "kat_upernet_micro": [2.0, 0.5]}
STRIDES = {"kat_det_micro": {4: 16, 8: 16, 16: 16}, "kat_upernet_micro": {4: 32, 16: 32}}
"""The channels of each stride."""


def make_dense(name, **args):
    record = record_of(name, (3, SIDE, SIDE), {**ARGS, "scales": SCALES[name], **args})
    torch.manual_seed(0)
    return build_model(record).eval(), record


def images(count):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("kat_upernet_micro", "pt2"),
        pytest.param("kat_det_micro", "onnx", marks=pytest.mark.release),
    ],
)
@torch.no_grad()
def test_features_are_the_backbones(name, ending, tmp_path):
    model, record = make_dense(name)
    path = tmp_path / f"b.{ending}"
    done = export_model(FeatureMaps(model), record, path)
    assert done.record == ExportRecord(record, None, "features")
    opened = open_file(path, trust=True)
    for count in (1, 2, 5):
        expected = model.backbone(images(count))
        if ending == "onnx":
            session = onnxruntime.InferenceSession(path)
            names = [f"stride_{stride}" for stride in STRIDES[name]]
            direct = session.run(names, {"images": images(count).numpy()})
            found = dict(zip(names, map(torch.from_numpy, direct), strict=True))
        else:
            found = torch.export.load(path).module()(images(count))
        for outputs in (found, opened(images(count))):
            for (stride, channels), want in zip(STRIDES[name].items(), expected, strict=True):
                got = outputs[f"stride_{stride}"]
                assert got.shape == (count, channels, -(-SIDE // stride), -(-SIDE // stride))
                assert (got - want).abs().max() < 1e-5 * want.abs().max()
        assert list(found) == list(opened(images(count)))
    with pytest.raises(InputError, match="48x48 pixels, got 3x64x64"):
        opened(torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="is a backbone without heads"):
        open_model(path, trust=True)


def test_a_file_with_other_features_is_not_kept(tmp_path, monkeypatch):
    """Even if the map that differs is small beside the others."""
    model, record = make_dense("kat_upernet_micro")

    def wrong(module):
        frozen = freeze(module)
        frozen.backbone.neck.levels[0][0].bias += 1e-3
        return frozen

    monkeypatch.setattr(export_module, "freeze", wrong)
    with pytest.raises(ExportFailed, match="was not kept: its features differ"):
        export_model(FeatureMaps(model), record, tmp_path / "b.pt2")
    assert not list(tmp_path.iterdir())
