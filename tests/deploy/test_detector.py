"""Detectors as ONNX files, by the exporter that torchvision makes its detectors for."""

from __future__ import annotations

import warnings

import onnxruntime
import pytest
import torch

from kat.deploy.freezing import freeze
from kat.models import create_model


@pytest.mark.parametrize("name", ["kat_det_micro", "vit_det_micro"])
def test_a_detector_of_one_image_gives_the_same_in_onnx(name, tmp_path):
    torch.manual_seed(0)
    args = {"img_size": 64, "embed_dim": 48, "depth": 2, "global_blocks": [1], "channels": 16}
    model = create_model(name, num_classes=3, rcnn={"box_score_thresh": 0.0}, **args).eval()
    with torch.no_grad():  # no rational stays the identity
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    file = tmp_path / "detector.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's age and what it takes for constant
        traced = ([torch.randn(3, 64, 64)],)
        torch.onnx.export(freeze(model), traced, str(file), dynamo=False, opset_version=18)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of each number of masks
    session = onnxruntime.InferenceSession(str(file), options)
    for image in (traced[0][0], torch.randn(3, 64, 64)):
        outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            (expected,) = model([image])
        for got, key in zip(outputs, ("boxes", "labels", "scores", "masks"), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected[key], rtol=1e-3, atol=1e-3)
