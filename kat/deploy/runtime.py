"""Stored models of every kind, opened as modules: checkpoints, ``.pt2``, ``.onnx``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.deploy.onnx_file import read_onnx
from kat.deploy.program import make_resizable, size_step
from kat.deploy.pt2_file import read_pt2
from kat.deploy.stored_record import StoredRecord
from kat.models import ModelRecord, load_model
from kat.models.dense import DenseModel

_READERS = {".pt2": read_pt2, ".onnx": read_onnx}


class Runtime(nn.Module):
    """An exported model as a module, which runs on the CPU.

    Args:
        run: maps images (B, C, H, W), float32 and on the CPU, to logits (B, classes), or of a
            segmentation model (B, classes, H, W).
        record: what the file says of itself.
    """

    window: int | None = None
    """Of a segmentation model that takes one size alone: its side."""

    def __init__(self, run: Callable[[Tensor], Tensor], record: StoredRecord) -> None:
        super().__init__()
        # In a tuple, so that it is no submodule: exported programs refuse eval() and train().
        self._run = (run,)
        self.record = record
        self.task = record.task
        if self.task == "segmentation" and record.step is None:
            self.window = min(record.model.input_size[1:])

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
        self.record.check_size(images.shape)
        return self._run[0](images.float().cpu()).to(images.device)


def open_model(path: Path, image_size: int | None = None) -> tuple[nn.Module, ModelRecord]:
    """A stored model of any kind, ready to evaluate, and its record.

    Args:
        path: a ``.pt2`` or ``.onnx`` file that ``kat export`` has written, or what
            :func:`kat.models.load_model` takes.
        image_size: side of the square images that it is to see, if not its own; of a segmentation
            model the shorter side of any, of a detector the longer one.

    Raises:
        InputError: no model there, a damaged or foreign file, a package that is not installed, or
            an image size that the model does not take.
    """
    model: nn.Module
    if path.suffix in _READERS and not path.is_dir():
        run, stored = _READERS[path.suffix](path)
        model = Runtime(run, stored)
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
