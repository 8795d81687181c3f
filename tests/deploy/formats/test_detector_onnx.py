"""Detectors as ONNX files: the detections of the model, in images of any size."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from kat.deploy import export_model, freeze, open_model
from kat.deploy.formats import detector_onnx
from kat.errors import ExportFailed, InputError
from kat.models import build_model
from tests.models.small import record_of

pytestmark = pytest.mark.slow

SIDE = 64
NAMES = ["boxes", "labels", "scores", "masks"]
ARGS = {"embed_dim": 48, "depth": 2, "window": 5, "global_blocks": [1], "channels": 16}
SIZES = ((SIDE, SIDE), (100, 100), (30, 30), (100, 50), (33, 66))
PADDED = ((48, SIDE), (100, 37), (33, 129), (1, 60))
"""Of images; the detector pads some of them, once they are resized. Proposals in the padding have
equal scores, and which of these is kept is a matter of chance."""
LEAST = 0.3
"""About the highest score of an untrained model of three classes."""


def make_detector(name="kat_det_micro", least=LEAST, **args):
    rcnn = {"box_score_thresh": least}
    record = record_of(name, (3, SIDE, SIDE), {**ARGS, "rcnn": rcnn, **args})
    torch.manual_seed(0)
    model = build_model(record).eval()
    with torch.no_grad():  # so that no rational is the identity
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, record


def noise(*size, seed=7):
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def check_same(found, expected):
    """The same detections in the same order."""
    assert list(found) == list(expected) == NAMES
    assert len(expected["boxes"])
    assert torch.equal(found["labels"], expected["labels"])
    for name in ("boxes", "scores"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    assert found["masks"].shape == expected["masks"].shape
    assert (found["masks"] != expected["masks"]).float().mean() < 1e-3  # near ties


def share_in(some, others):
    """The share of detections that are among others."""
    same = (some["boxes"][:, None] - others["boxes"]).abs().amax(-1) < 1e-2
    same &= (some["scores"][:, None] - others["scores"]).abs() < 1e-3
    same &= some["labels"][:, None] == others["labels"]
    return same.any(1).float().mean()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A detector, and the folder of its file."""
    folder = tmp_path_factory.mktemp("detectors")
    model, record = make_detector()
    export_model(model, record, folder / "kat_det_micro.onnx")
    return model, folder


@torch.no_grad()
def test_onnxruntime_computes_the_models_detections(exported, capfd):
    model, path = exported[0], exported[1] / "kat_det_micro.onnx"
    session = onnxruntime.InferenceSession(path)
    assert capfd.readouterr().err == ""
    inputs = [("image", [3, "height", "width"]), ("threshold", [])]
    assert [(x.name, x.shape) for x in session.get_inputs()] == inputs
    assert [(x.name, x.shape) for x in session.get_outputs()] == [
        ("boxes", ["objects", 4]),
        ("labels", ["objects"]),
        ("scores", ["objects"]),
        ("masks", ["objects", 1, 28, 28]),
    ]
    counts = set()
    for seed in (1, 2, 3):
        image = noise(SIDE, SIDE, seed=seed)
        least = np.array(LEAST, np.float32)
        outputs = session.run(NAMES, {"image": image.numpy(), "threshold": least})
        found = dict(zip(NAMES, map(torch.from_numpy, outputs), strict=True))
        pasted = paste_masks_in_image(found["masks"], found["boxes"], (SIDE, SIDE))
        found["masks"] = pasted[:, 0] >= 0.5
        check_same(found, model([image])[0])
        counts.add(len(found["boxes"]))
        all_of_them = {"image": image.numpy(), "threshold": np.zeros((), np.float32)}
        assert len(session.run(["scores"], all_of_them)[0]) == 100
    assert len(counts) > 1


def test_a_file_is_standard_operators_and_has_the_record(exported):
    model = onnx.load(exported[1] / "kat_det_micro.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    record = json.loads({x.key: x.value for x in model.metadata_props}["kat"])
    assert (record["task"], record["label_names"]) == ("detection", ["ant", "bee", "cat"])
    assert record["pretrained_cfg"]["input_size"] == [3, SIDE, SIDE]
    steps = [record["preprocessing"][name] for name in ("resize", "scale", "crop")]
    assert steps == ["in the file", 1 / 255, None]


@torch.no_grad()
def test_our_runtime_takes_images_of_any_size(exported, capfd):
    model = exported[0]
    opened, record = open_model(exported[1] / "kat_det_micro.onnx")
    assert record.classes == ["ant", "bee", "cat"]
    images = [noise(*size) for size in SIZES]
    for image, found in zip(images, opened.train()(images), strict=True):
        check_same(found, model([image])[0])
    for size in PADDED:
        image = noise(*size)
        found, expected = opened([image])[0], model([image])[0]
        assert share_in(found, expected) >= 0.95
        assert share_in(expected, found) >= 0.95
    assert capfd.readouterr().err == ""
    few = len(opened([images[0]])[0]["scores"])
    opened.score_threshold = 0.0
    everything = opened([images[0]])[0]["scores"]
    assert 0 < few == (everything > LEAST).sum() < len(everything)
    open_model(exported[1] / "kat_det_micro.onnx", SIDE)
    with pytest.raises(InputError, match="not to 96"):
        open_model(exported[1] / "kat_det_micro.onnx", 96)


@torch.no_grad()
@pytest.mark.release
def test_sides_between_a_least_and_a_largest(tmp_path):
    """Larger than the position embeddings."""
    model, record = make_detector(min_size=48, max_size=80, masks=False)
    export_model(model, record, tmp_path / "m.onnx")
    opened, stored = open_model(tmp_path / "m.onnx")
    assert (stored.args["min_size"], stored.args["max_size"]) == (48, 80)
    for image in (noise(60, 60), noise(40, 90)):
        found, expected = opened([image])[0], model([image])[0]
        assert found.keys() == expected.keys() == {"boxes", "labels", "scores"}
        assert share_in(found, expected) >= 0.95
        assert share_in(expected, found) >= 0.95


def test_a_file_with_other_detections_is_not_kept(tmp_path, monkeypatch):
    """Even if the model detects nothing in noise."""
    model, record = make_detector(least=0.99)
    with torch.no_grad():
        assert len(model([noise(SIDE, SIDE)])[0]["boxes"]) == 0
    path = tmp_path / "m.onnx"
    path.write_bytes(b"kept")

    def wrong(model):
        frozen = freeze(model)
        frozen.transformer.blocks[1].mlp.act2.numerator[0, 2] += 1e-2
        return frozen

    monkeypatch.setattr(detector_onnx, "freeze", wrong)
    with pytest.raises(ExportFailed, match="not kept"):
        export_model(model, record, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"kept"
    assert model.score_threshold == 0.99


def test_what_cannot_be_exported(tmp_path):
    model, record = make_detector()
    for path, int8 in ((tmp_path / "m.pt2", False), (tmp_path / "m.onnx", True)):
        with pytest.raises(InputError, match="without int8"):
            export_model(model, record, path, int8=int8)
    assert not list(tmp_path.iterdir())
