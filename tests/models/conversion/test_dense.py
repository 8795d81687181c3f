"""Dense models that start from trained dense models."""

from __future__ import annotations

import pytest
import torch

from kat.models import build_model, init_from_vit, read_vit, save_model
from tests.models.small import record_of

ARGS = {"embed_dim": 32, "depth": 4, "num_heads": 2, "channels": 16, "global_blocks": [3]}
NAMES = ("kat_det_micro", "vit_det_micro", "kat_upernet_micro", "vit_upernet_micro")


def make(name, classes, size=64, seed=0, **args):
    """A small model with perturbed initial weights, and its record."""
    record = record_of(name, (3, size, size), {**ARGS, **args}, classes)
    torch.manual_seed(seed)
    model = build_model(record).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, record


def own_state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def output(model, image):
    with torch.no_grad():
        found = model([image])[0] if model.task == "detection" else model(image[None])
    return found if isinstance(found, torch.Tensor) else found["scores"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_model_of_the_same_classes_is_carried_completely(name, tmp_path):
    rcnn = {"rcnn": {"box_score_thresh": 0.0}} if "det" in name else {}
    source, record = make(name, "abc", **rcnn)
    save_model(source, record, tmp_path / "run")
    model, _ = make(name, "abc", seed=1, **rcnn)
    report = init_from_vit(model, read_vit(tmp_path / "run").for_classes(["a", "b", "c"]))
    assert report.fresh == []
    assert report.dropped == []
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(output(model, image), output(source, image))


@pytest.mark.parametrize("name", NAMES)
def test_for_other_classes_all_but_the_class_layers_is_carried(name, tmp_path):
    source, record = make(name, "abc")
    save_model(source, record, tmp_path / "run")
    stored = read_vit(tmp_path / "run")
    for classes, found in (("xyz", stored.for_classes(["x", "y", "z"])), ("abcde", source)):
        model, _ = make(name, classes, seed=1)
        before = own_state(model)
        report = init_from_vit(model, found)
        there = source.state_dict()
        of_classes = [key for key in before if key.startswith(type(model).class_layers)]
        assert len(of_classes) == (6 if "det" in name else 4)
        for key, value in model.state_dict().items():
            assert torch.equal(value, (before if key in of_classes else there)[key]), key
        assert report.fresh == of_classes


def test_relative_positions_follow_the_size_of_the_images():
    """A global block's table at 64 pixels is the middle of that at 128, and back."""
    small, _ = make("kat_det_micro", "abc", 64)
    large, _ = make("kat_det_micro", "abc", 128, seed=1)
    before = small.backbone.body.attention[3].rel_pos_h.detach().clone()
    report = init_from_vit(large, small)
    table = large.backbone.body.attention[3].rel_pos_h
    assert table.shape == (31, 16)
    assert report.resized["backbone.body.attention.3.rel_pos_h"] == ((15, 16), (31, 16))
    whole = torch.nn.functional.interpolate(before.T[None], size=31, mode="linear")[0].T
    assert torch.equal(table, whole)
    init_from_vit(small, large)
    assert torch.equal(small.backbone.body.attention[3].rel_pos_h, table[8:23])


def test_a_model_for_another_task_takes_transformer_and_relative_positions():
    source, _ = make("kat_det_micro", "abc")
    model, _ = make("kat_upernet_micro", "abc", seed=1)
    before = own_state(model)
    report = init_from_vit(model, source)
    assert "neck.0.0.weight" not in report.carried
    for key, value in model.state_dict().items():
        body = key.startswith("backbone.body.")
        assert torch.equal(value, (source.state_dict() if body else before)[key]), key


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector_of_boxes_and_one_of_masks_start_from_each_other(masks):
    source, _ = make("kat_det_micro", "abc", masks=masks)
    model, _ = make("kat_det_micro", "abc", seed=1, masks=not masks)
    report = init_from_vit(model, source)
    there, found = source.state_dict(), model.state_dict()
    assert all(torch.equal(found[name], there[name]) for name in found.keys() & there.keys())
    assert all("roi_heads.mask_" in name for name in found.keys() ^ there.keys())
    assert bool(report.fresh) != masks
    assert model.eval()([torch.zeros(3, 64, 64)])[0].keys() >= {"boxes", "scores"}
