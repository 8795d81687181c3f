"""Classifiers with their preprocessing as ONNX files: the classes of kat predict, from pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from kat.api import TrainedModel
from kat.deploy import WithPreprocessing, export_model
from kat.errors import InputError
from kat.models import build_model
from tests.models.small import ARGS, make_model, record_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("channels", "mode"), [(1, "bilinear"), pytest.param(3, "bicubic", marks=pytest.mark.release)]
)
def test_the_file_gives_the_classes_of_kat_predict(tmp_path, channels, mode):
    """For fifty digits and two photographs in many sizes."""
    random = np.random.default_rng(0)
    pictures = []
    for pixels in [*15 * load_digits().images[:50], *load_sample_images().images * 25]:
        picture = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        pictures.append(picture.resize(random.integers(5, 300, 2)))
    record = record_of("kat_micro", (channels, 32, 32), ARGS, map(str, range(10)))
    model = TrainedModel(build_model(record).eval(), replace(record, interpolation=mode))
    head = model.model.head
    head.weight.data *= 100
    head.bias.data = -head.weight.data @ model.features(pictures).mean(0)  # classes differ
    prepared = WithPreprocessing(model.model, model.record)
    export_model(prepared, model.record, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    errors = []
    for picture, wanted in zip(pictures, model.predict(pictures), strict=True):
        classes, probabilities = session.run(None, {"image": np.asarray(picture)})
        best = wanted.entries[0]
        assert classes[0] == best["class"]
        errors.append(abs(probabilities[0] - best["probability"]))
    assert max(errors) < 0.01  # Pillow resizes tall pictures in another order
    assert np.median(errors) < 1e-5


def test_interpolation_without_a_formula_is_refused():
    model, record = make_model(depth=1)
    with pytest.raises(InputError, match="only classifiers whose images are resized by"):
        WithPreprocessing(model, replace(record, interpolation="nearest"))
