"""ONNX files: standard operators, dynamic dimensions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest


@pytest.mark.slow
def test_onnx_files_have_standard_operators_and_named_dimensions(stored):
    shapes = {}
    for name in ("fixed", "resizable8"):
        path = stored.file(f"{name}.onnx")
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
