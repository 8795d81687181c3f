"""Detectors as ONNX files, by the exporter that torchvision makes its detectors for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from kat.deploy.formats.onnx import OPSET, check_size, save_proto
from kat.deploy.freezing import freeze
from kat.deploy.packages import require
from kat.deploy.stored_record import StoredRecord
from kat.errors import InputError
from kat.models import ModelRecord
from kat.models.dense import Detector

IMAGE, THRESHOLD = "image", "threshold"
OUTPUTS = ("boxes", "labels", "scores", "masks")
_KEPT = 0.9
"""The share of objects that must be the same: which of two near ties is kept, rounding decides."""

Objects = dict[str, Tensor]
Find = Callable[[Tensor, Tensor], Objects]
"""Maps an image (C, S, S) and a score () to the objects that score more; see :class:`OneImage`."""


class OneImage(nn.Module):
    """What a detector finds in an image of its own size, as a function of tensors.

    Args:
        detector: in evaluation mode; the score that its objects must have is changed.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, threshold: Tensor) -> Objects:
        """``boxes`` (N, 4), ``labels`` and ``scores`` (N,), and of each box a mask (N, 1, 28, 28).

        Args:
            image: (C, S, S), normalised, where S is what the detector scales the longer side to.
            threshold: (), what objects score more than.
        """
        self.detector.score_threshold = threshold
        side = self.detector.transform.max_size
        (found,), _ = self.detector.detect(ImageList(image[None], [(side, side)]))
        return {name: found[name] for name in OUTPUTS}


def record_of(detector: Detector, record: ModelRecord) -> StoredRecord:
    """The record of the file: the size of its image, and among the args its least score.

    Raises:
        InputError: the detector does not scale images to one longer side, or pads even squares of
            that: all that it proposes in the padding scores the same, and which of equals are kept
            is not the same everywhere.
    """
    (shorter,), longer = detector.transform.min_size, detector.transform.max_size
    step = detector.transform.size_divisible
    if shorter != longer or longer % step:
        raise InputError(
            f"{record.architecture} can be exported for squares of one size, a multiple of {step},"
            f" and scales images to sides from {shorter} to {longer}: choose one by set_image_size"
        )
    rcnn = {**record.args.get("rcnn", {}), "box_score_thresh": detector.score_threshold}
    size = (record.input_size[0], longer, longer)
    sized = replace(record, input_size=size, args={**record.args, "rcnn": rcnn})
    return StoredRecord(sized, None, detector.task)


def write_detector(detector: Detector, record: StoredRecord, path: Path) -> None:
    """Writes a detector for one image in one ONNX file, with the record in its metadata.

    The score that objects must have is an input that may be left out.

    Raises:
        InputError: onnx is not installed, or the model does not fit in 2 GB.
    """
    onnx = require("onnx", "ONNX export")
    check_size(detector.state_dict())
    frozen: Any = freeze(detector)
    frozen.backbone.body.fit_positions(*record.model.input_size[1:])
    traced = OneImage(frozen).eval()
    least = torch.tensor(detector.score_threshold)
    inputs = (torch.zeros(record.model.input_size), least)
    with _quiet_tracing():
        torch.onnx.export(
            traced,
            inputs,
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGE, THRESHOLD],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "objects"} for name in OUTPUTS},
        )
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(least.numpy(), THRESHOLD))
    for value, answer in zip(proto.graph.output, traced(*inputs).values(), strict=True):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims[1:], answer.shape[1:], strict=True):
            dim.dim_value = size
    save_proto(proto, record, path)


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Hides what the exporter says of its age, and that it takes the image's size for constant."""
    with warnings.catch_warnings():
        for category in (torch.jit.TracerWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


@torch.no_grad()
def objects_distance(find: Find, detector: Detector, record: StoredRecord) -> float:
    """How far the objects of an exported detector are from the detector's, on noise.

    The distance of two objects of one class is the largest difference of their boxes, relative to
    the image's side, of their scores and of their masks. Nine in ten objects of either have one of
    the other within what is returned.

    A model that has learnt finds nothing in noise that it would name an object, so the threshold
    is one of its own scores, by which the upper half or more of all that it could find counts.
    """
    expected = OneImage(copy.deepcopy(detector))
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(3):
        image = torch.randn(record.model.input_size, generator=generator)
        threshold = _between(expected(image, torch.tensor(-1.0))["scores"])
        errors.append(_apart(find(image, threshold), expected(image, threshold), len(image[0])))
    return torch.stack(errors).max().item()


def _between(scores: Tensor) -> Tensor:
    """A threshold in the widest gap of the lower half of falling scores: rounding crosses none."""
    if len(scores) < 2 or not scores.isfinite().all():
        raise InputError(
            f"the model gives {len(scores)} objects in noise, whatever they score, and its file"
            " cannot be checked with so few: its weights are not finite, or rpn_score_thresh or"
            " box_detections_per_img keeps too little"
        )
    lower = scores[(len(scores) - 1) // 2 :]
    place = (lower[:-1] - lower[1:]).argmax()
    return (lower[place] + lower[place + 1]) / 2


def _apart(found: Objects, expected: Objects, side: int) -> Tensor:
    """See :func:`objects_distance`; infinite where one has nothing."""
    if not len(found["boxes"]) or not len(expected["boxes"]):
        return torch.tensor(torch.inf)
    scales = {"boxes": side, "scores": 1, "masks": 1}
    apart = torch.stack(
        [
            torch.cdist(_rows(found[name]), _rows(expected[name]), p=torch.inf) / scale
            for name, scale in scales.items()
        ]
    ).amax(0)
    apart[found["labels"][:, None] != expected["labels"]] = torch.inf
    return torch.stack(
        [apart.amin(axis).quantile(_KEPT, interpolation="higher") for axis in (0, 1)]
    ).max()


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)
