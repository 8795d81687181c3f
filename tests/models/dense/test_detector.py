"""Detectors: input and output, that they learn, and timm's interface."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import clip_boxes_to_image

import kat
from kat.errors import InputError
from kat.models import create_model
from kat.models.dense import EvaluationSize

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 2, "global_blocks": [1], "channels": 16}
FEW = {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20}


def detector(name: str = "kat_det_micro", **kwargs):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 3, **SMALL, "rcnn": FEW, **kwargs})


def target(boxes: list[list[int]], labels: list[int], size: tuple[int, int]) -> dict:
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "masks": masks,
    }


def scene(seed: int) -> tuple[torch.Tensor, dict]:
    """A bright square, class 0, and a dark wide bar, class 2, on noise of 64 by 56."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.1 * torch.randn(3, 64, 56, generator=generator)
    top, left = (int(i) for i in torch.randint(2, 10, (2,), generator=generator))
    square, bar = [left, top, left + 18, top + 18], [left, top + 30, left + 36, top + 44]
    for value, (x1, y1, x2, y2) in ((2, square), (-2, bar)):
        image[:, y1:y2, x1:x2] += value
    return image, target([square, bar], [0, 2], (64, 56))


@pytest.mark.parametrize("name", ["kat_det_micro", "vit_det_micro"])
def test_losses_in_training_and_detections_in_evaluation(name):
    model = detector(name)
    assert model.task == "detection"
    images = [torch.randn(3, 64, 64), torch.randn(3, 40, 52)]
    targets = [target([[5, 5, 30, 40]], [2], (64, 64)), target([], [], (40, 52))]
    losses = model.train()(images, targets)
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask",
    }  # fmt: skip
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        found = model.eval()(images)
    assert [tuple(one["masks"].shape[1:]) for one in found] == [(64, 64), (40, 52)]
    assert {one["masks"].dtype for one in found} == {torch.bool}
    assert all(set(one["labels"].tolist()) <= {0, 1, 2} for one in found)
    assert targets[0]["labels"].tolist() == [2]  # unchanged


@pytest.mark.slow
def test_it_learns_to_detect():
    """Classes at both ends of the list, to notice a background in between."""
    model = detector(channels=32).train()
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=3e-3))
    for step in range(70):
        scenes = [scene(100 + 4 * step + index) for index in range(4)]
        losses = model([image for image, _ in scenes], [objects for _, objects in scenes])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    image, objects = scene(0)
    with torch.no_grad():
        (found,) = model.eval()([image])
    for box, label, mask in zip(*(objects[n] for n in ("boxes", "labels", "masks")), strict=True):
        best = (found["labels"] == label).nonzero()[0, 0]  # scores decrease
        assert found["scores"][best] > 0.5
        assert (found["boxes"][best] - box).abs().max() < 5
        there = found["masks"][best]
        assert (there & (mask > 0)).sum() > 0.7 * (there | (mask > 0)).sum()


@torch.no_grad()
def test_of_equally_good_anchors_the_first_are_proposed():
    """Padding makes many of them equal; ONNX takes the first ones, torch's topk any."""
    model = detector().eval()
    for parameter in model.rpn.head.parameters():
        parameter.zero_()
    model.rpn.nms_thresh = 2.0  # none is left out for overlapping another
    calls = []
    for module in (model.rpn.anchor_generator, model.rpn):
        module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    model([torch.randn(3, 64, 40)])
    ((batch, _), (anchors,)), (_, ((proposals,), _)) = calls
    assert len(proposals) > 10
    first = clip_boxes_to_image(anchors[: len(proposals)], batch.image_sizes[0])
    torch.testing.assert_close(proposals, first)


def test_strides_of_patches_of_14_are_not_rounded_down():
    strides = [3.5, 7, 14, 28, 56]
    model = detector(patch_size=14, img_size=56, scales=[4.0, 2.0, 1.0, 0.5]).eval()
    assert model.backbone.strides == strides
    seen: list = []
    model.rpn.anchor_generator.register_forward_hook(lambda *args: seen.extend(args[2]))
    with torch.no_grad():
        model([torch.randn(3, 56, 42)])
    sides = [(stride, range(round(56 / stride))) for stride in strides]
    places = [[x * s, y * s] for s, side in sides for y in side for x in side for _ in range(3)]
    assert ((seen[0][:, :2] + seen[0][:, 2:]) / 2).tolist() == places
    mapper = model.roi_heads.box_roi_pool.map_levels
    assert (mapper.k_min, mapper.k_max) == (2, 5)


@pytest.mark.parametrize(
    ("size", "scaled"), [((200, 100), (128, 64)), ((50, 60), (80, 96)), ((32, 256), (16, 128))]
)
def test_images_are_resized_in_evaluation_only(size, scaled):
    transform = EvaluationSize(min_size=80, max_size=128, channels=2, step=32).eval()
    image = torch.rand(2, *size)
    batch, _ = transform([image])
    assert batch.image_sizes == [scaled]
    assert all(side % 32 == 0 for side in batch.tensors.shape[2:])
    height, width = scaled
    shrunk = torch.nn.functional.interpolate(
        image[None], scaled, mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(batch.tensors[:, :, :height, :width], shrunk)
    batch, _ = transform.train()([image], [target([[1, 1, 9, 9]], [0], size)])
    assert torch.equal(batch.tensors[0, :, : size[0], : size[1]], image)


def test_detections_are_in_pixels_of_the_original_image():
    model = detector(rcnn={**FEW, "box_score_thresh": 0.0}).eval()
    image = torch.rand(3, 96, 192)
    with torch.no_grad():
        (large,) = model([image])
        (small,) = model([model.transform.resize(image)[0]])
    torch.testing.assert_close(large["boxes"] / 3, small["boxes"])
    assert large["masks"].shape[1:] == (96, 192)


def test_masks_are_pasted_as_torchvision_does():
    """Including boxes over the edges; the scale is 2."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 1, 28, 28, generator=generator)
    boxes = torch.tensor([[3, 4, 20, 30], [-5, -3, 9, 8], [30, 30, 60, 70], [0, 0, 1, 1]]).float()
    given = {"boxes": boxes, "masks": masks}
    transform = EvaluationSize(min_size=40, max_size=50, channels=1, step=1)
    (found,) = transform.postprocess([given], [(40, 50)], [(80, 100)])
    expected = paste_masks_in_image(masks, 2 * boxes, (80, 100))[:, 0] >= 0.5
    assert torch.equal(found["boxes"], 2 * boxes)
    assert torch.equal(found["masks"], expected)


def test_reduced_precision_leaves_boxes_exact():
    """Boxes between 512 and 1024 in bfloat16 would be multiples of 4 pixels."""
    size = (128, 1024)
    model = detector(img_size=size, rcnn={**FEW, "box_score_thresh": 0.0}).eval()
    seen: dict = {}
    for name in ("rpn.anchor_generator", "rpn.head", "rpn", "roi_heads.box_predictor"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model([torch.randn(3, *size)])
    (proposals,), (logits, deltas) = seen["rpn"][0], seen["roi_heads.box_predictor"]
    own = [found[name] for name in ("boxes", "scores")]
    heads = [*seen["rpn.head"][0], *seen["rpn.head"][1], logits, deltas]
    assert {x.dtype for x in [*own, *heads, *seen["rpn.anchor_generator"]]} == {torch.float32}
    exact = model.roi_heads.box_coder.decode(deltas.double(), [proposals.double()])
    exact = clip_boxes_to_image(exact[:, 1:].reshape(-1, 4), size)
    nearest = (found["boxes"][:, None].double() - exact).abs().amax(-1).amin(1)
    assert found["boxes"].max() > 512
    assert nearest.max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_full_sizes(size):
    with torch.device("meta"):
        model, vit = (timm.create_model(f"{kind}_det_{size}") for kind in ("kat", "vit"))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, vit)]
    assert sizes[0] - sizes[1] == 12 * 2 * (6 + 8 * 4)
    assert model.backbone.strides == [4, 8, 16, 32, 64]
    assert model.roi_heads.box_predictor.cls_score.out_features == 81


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_autocast(dtype):
    model = detector().eval()
    assert model([]) == []
    image = torch.randn(3, 64, 64)
    found = model.to(dtype)([image.to(dtype)])[0]
    assert found["boxes"].dtype == torch.float32
    assert found["boxes"].isfinite().all()


def test_invalid_arguments_are_named():
    with pytest.raises(InputError, match="global_blocks"):
        detector(global_blocks=[7])
    with pytest.raises(InputError, match="'boxes'"):
        detector(rcnn={"boxes": 3})
