"""Stored models of every kind, opened as modules: checkpoints, ``.pt2``, ``.onnx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from kat.deploy.formats.onnx import read_onnx
from kat.deploy.formats.pt2 import read_pt2
from kat.deploy.program import make_resizable, size_step
from kat.deploy.stored_record import StoredRecord
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.models.dense import DenseModel, EvaluationSize

_READERS = {".pt2": read_pt2, ".onnx": read_onnx}
_LEAST_SIDE = 1e-2
"""Of a box that is kept, in pixels: torchvision's."""


class Runtime(nn.Module):
    """An exported model as a module, which runs on the CPU and is always in evaluation mode.

    Args:
        run: maps images (B, C, H, W), float32 and on the CPU, to logits (B, classes), or of a
            segmentation model (B, classes, H, W).
        record: what the file says of itself.
    """

    window: int | None = None
    """Of a segmentation model that takes one size alone: its side."""

    def __init__(self, run: Callable[..., Any], record: StoredRecord) -> None:
        super().__init__()
        # In a tuple, so that it is no submodule: exported programs refuse eval() and train().
        self._run = (run,)
        self.record = record
        self.task = record.task
        if self.task == "segmentation" and record.step is None:
            self.window = min(record.model.input_size[1:])
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Changes nothing."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or (B, classes, H, W), on the images' device.

        What a segmentation model's images lack of its size is padded on the right and below.

        Raises:
            InputError: images of a size that the file is not for.
        """
        if self.window is None:
            return self._logits(images)
        height, width = images.shape[-2:]
        rows, columns = self.record.model.input_size[1:]
        padding = (0, max(0, columns - width), 0, max(0, rows - height))
        return self._logits(functional.pad(images, padding))[..., :height, :width]

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self._answer(images)
        return logits.to(images.device)

    def _answer(self, images: Tensor) -> Any:
        self.record.check_size(images.shape)
        return self._run[0](images.float().cpu())


class FeaturesRuntime(Runtime):
    """An exported backbone: maps images (B, C, H, W) to the maps of its strides, by name."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """``stride_4`` (B, C', H / 4, W / 4) and so on, on the images' device."""
        return {name: one.to(images.device) for name, one in self._answer(images).items()}


class DetectorRuntime(Runtime):
    """An exported detector, which does what :class:`kat.models.dense.Detector` does in evaluation.

    Each image is scaled as that scales it, and padded on the right and below to the file's square.
    The file takes the padding for a part of the image, where the detector cuts it off: of an image
    that is no square the objects are nearly the same.

    Args:
        run: see :class:`kat.deploy.formats.detector_onnx.OneImage`.
        record: what the file says of itself.
    """

    def __init__(self, run: Callable[..., Any], record: StoredRecord) -> None:
        super().__init__(run, record)
        channels, side, _ = record.model.input_size
        self.score_threshold: float = record.model.args["rcnn"]["box_score_thresh"]
        self.transform = EvaluationSize(side, side, channels, step=side).eval()

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """What is found in each image (C, H, W): see :class:`kat.models.dense.Detector`."""
        return [self._objects(image) for image in images]

    def find(self, image: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        """What the file itself answers: see :class:`kat.deploy.formats.detector_onnx.OneImage`."""
        objects: dict[str, Tensor] = self._run[0](image, threshold)
        return objects

    def _objects(self, image: Tensor) -> dict[str, Tensor]:
        batch, _ = self.transform([image.float().cpu()])
        objects = self.find(batch.tensors[0], torch.tensor(self.score_threshold))
        inside = clip_boxes_to_image(objects["boxes"], batch.image_sizes[0])
        kept = remove_small_boxes(inside, _LEAST_SIDE)
        chosen = {name: objects[name][kept] for name in objects}
        size = image.shape[-2:]
        # Masks are those of the whole boxes: only then may these be cut to the image.
        (found,) = self.transform.postprocess([chosen], batch.image_sizes, [size])
        found["boxes"] = clip_boxes_to_image(found["boxes"], size)
        return {name: one.to(image.device) for name, one in found.items()}


_KINDS = {"detection": DetectorRuntime, "features": FeaturesRuntime}


def open_file(path: Path) -> Runtime:
    """A ``.pt2`` or ``.onnx`` file that ``kat export`` has written, of whatever kind.

    Raises:
        InputError: no such file, a damaged or foreign one, a package that is not installed.
    """
    run, record = _READERS[path.suffix](path)
    return _KINDS.get(record.task, Runtime)(run, record)


def open_model(path: Path, image_size: int | None = None) -> tuple[nn.Module, ModelRecord]:
    """A stored model of any kind, ready to evaluate, and its record.

    Args:
        path: a ``.pt2`` or ``.onnx`` file that ``kat export`` has written, or what
            :func:`kat.models.load_model` takes.
        image_size: side of the square images that it is to see, if not its own; of a segmentation
            model the shorter side of any, of a detector the longer one.

    Raises:
        InputError: no model there, a damaged or foreign file, a backbone alone, a package that is
            not installed, or an image size that the model does not take.
    """
    model: nn.Module
    if path.suffix in _READERS and not path.is_dir():
        model = open_file(path)
        stored = model.record
        if stored.task == "features":
            raise InputError(
                f"{path} holds a backbone alone, whose features answer nothing: export the model"
                " without --backbone"
            )
    else:
        model, record = load_model(path)
        if image_size is not None and not isinstance(model, DenseModel):
            model = make_resizable(model, record)
        stored = StoredRecord(record, size_step(model))
    if image_size is None:
        return model, stored.model
    resized = (stored.model.input_size[0], image_size, image_size)
    if isinstance(model, DenseModel):
        model.set_image_size(image_size)
    else:
        stored.check_size(torch.Size([1, *resized]))
    return model, replace(stored.model, input_size=resized)
