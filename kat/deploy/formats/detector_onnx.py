"""Detectors as ``.onnx`` files, by the exporter that torchvision supports.

They are read as any other ``.onnx`` file, by :func:`kat.deploy.formats.onnx.read`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from kat.deploy.export_record import ExportRecord
from kat.deploy.formats.onnx import IMAGE, OPSET, THRESHOLD, save_proto
from kat.deploy.freezing import freeze
from kat.models import ModelRecord
from kat.models.dense import Detector
from kat.models.dense.image_sizes import pad_to_patches

_SAME = 0.9
"""The share of detections that must agree: rounding decides which of two near ties is kept."""

Detections = dict[str, Tensor]
Detect = Callable[[Tensor, Tensor], Detections]
"""Maps an image (C, H, W) and a score () to the detections above it; see :class:`OneImage`."""


class OneImage(nn.Module):
    """The detections in an image of any size, as a function of tensors.

    Args:
        detector: in evaluation mode; its score threshold is changed.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, threshold: Tensor) -> Detections:
        """``boxes`` (N, 4), ``labels`` and ``scores`` (N,), and perhaps ``masks`` (N, 1, 28, 28).

        Boxes are in pixels of the image, masks are probabilities within the boxes.

        Args:
            image: (C, H, W), normalized; it is resized as the detector does.
            threshold: (), which scores exceed.
        """
        detector, step = self.detector, self.detector.transform.size_divisible
        detector.score_threshold = threshold
        image, size = detector.transform.resize(image)[0][None], image.shape[-2:]
        seen = image.shape[-2:]
        canvas = pad_to_patches(image, step)
        maps = []
        for one, stride in zip(detector.backbone(image), detector.backbone.strides, strict=True):
            maps.append(pad_to_patches(one, int(step / stride)))
        (found,), _ = detector.detect_in(maps, ImageList(canvas, [tuple(seen)]))
        found["boxes"] = resize_boxes(found["boxes"], seen, size)
        return {name: found[name] for name in output_names(detector)}


def output_names(detector: Detector) -> list[str]:
    """Return the outputs of a file, in their order."""
    names = ["boxes", "labels", "scores"]
    return [*names, "masks"] if detector.has_masks else names


def detector_record(detector: Detector, record: ModelRecord) -> ExportRecord:
    """Return the record of the file, with the sizes that it resizes to and the score threshold."""
    (shorter,), longer = detector.transform.min_size, detector.transform.max_size
    rcnn = {**record.args.get("rcnn", {}), "box_score_thresh": detector.score_threshold}
    sides = {"min_size": shorter, "max_size": longer}
    size = (record.input_size[0], longer, longer)
    sized = replace(record, input_size=size, args={**record.args, **sides, "rcnn": rcnn})
    return ExportRecord(sized, None, detector.task)


def write(detector: Detector, record: ExportRecord, path: Path) -> None:
    """Write a detector for one image in one ONNX file, with the record as metadata."""
    import onnx

    traced = OneImage(freeze(detector)).eval()
    threshold = torch.tensor(detector.score_threshold)
    channels, side, _ = record.model.input_size
    names = output_names(detector)
    image = torch.zeros(channels, side + 3, side // 2)
    axes: dict[str, dict[int, str]] = {name: {0: "objects"} for name in names}
    axes[IMAGE] = {1: "height", 2: "width"}
    with warnings.catch_warnings(action="ignore"):  # of constants in the trace
        torch.onnx.export(
            traced,
            (image, threshold),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGE, THRESHOLD],
            output_names=names,
            dynamic_axes=axes,
        )
    proto = onnx.load(path)
    for value, computed in zip(proto.graph.output, traced(image, threshold).values(), strict=True):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims[1:], computed.shape[1:], strict=True):
            dim.dim_value = size
    save_proto(proto, record, path)


@torch.no_grad()
def detections_distance(detect: Detect, detector: Detector, record: ExportRecord) -> float:
    """Return the distance of the detections of an exported detector from the detector's, on noise.

    The distance of two detections of the same class is the largest difference of their boxes,
    relative to the side of the image, their scores and their masks. Nine in ten detections of
    either have one of the other within the distance that is returned.

    A trained model detects nothing in noise, so the threshold is chosen such that half or more of
    all its candidates count.
    """
    expected = OneImage(copy.deepcopy(detector))
    generator = torch.Generator().manual_seed(0)
    errors = []
    channels, side, _ = record.model.input_size
    for height, width in ((side, side * 5 // 8), (side * 3 // 4 + 1, side * 5 // 4)):
        image = torch.randn((channels, height, width), generator=generator)
        threshold = _between(expected(image, torch.tensor(-1.0))["scores"])
        found, wanted = detect(image, threshold), expected(image, threshold)
        errors.append(_distance(found, wanted, max(height, width)))
    return torch.stack(errors).max().item()


def _between(scores: Tensor) -> Tensor:
    """Return the middle of the widest gap in the lower half of decreasing scores."""
    lower = scores[(len(scores) - 1) // 2 :]
    place = (lower[:-1] - lower[1:]).argmax()
    return (lower[place] + lower[place + 1]) / 2


def _distance(found: Detections, expected: Detections, side: int) -> Tensor:
    """See :func:`detections_distance`; infinite if one has no detections."""
    if not len(found["boxes"]) or not len(expected["boxes"]):
        return torch.tensor(torch.inf)
    scales = {"boxes": side, "scores": 1, "masks": 1}
    pairs = torch.zeros(len(found["boxes"]), len(expected["boxes"]))
    for name in scales.keys() & expected.keys():
        far = torch.cdist(_rows(found[name]), _rows(expected[name]), p=torch.inf)
        pairs = torch.maximum(pairs, far / scales[name])
    pairs[found["labels"][:, None] != expected["labels"]] = torch.inf
    nearest = [pairs.amin(0), pairs.amin(1)]
    return max(distances.quantile(_SAME, interpolation="higher") for distances in nearest)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)
