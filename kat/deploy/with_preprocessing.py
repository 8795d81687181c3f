"""A classifier with its preprocessing: from the pixels of a picture to classes."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor, nn

from kat.data import DeviceTransform, eval_transform
from kat.deploy.export_record import PICTURES
from kat.errors import InputError
from kat.models import ModelRecord
from kat.models.dense.image_sizes import resampling
from kat.models.task import DEFAULT_TASK, task_of

_BITS = 2.0**22
"""Pillow rounds the weights of an interpolation to multiples of 1 / _BITS."""
_GRAY = torch.tensor([19595.0, 38470.0, 7471.0])[:, None, None] / 2**16
"""Pillow's weights of red, green and blue."""


class WithPreprocessing(nn.Module):
    """Maps a picture of any size, (H, W, 3) uint8 in RGB, to classes and their probabilities.

    The picture is prepared as :func:`kat.data.eval_transform` does it with Pillow. While a graph is
    traced, this is plain operations that give the same pixels. Where a picture is more than twice
    as high as wide, pixels may differ by a few levels: Pillow 13 resizes its columns first.

    Args:
        model: maps (1, C, H, W) to logits.
        record: its classes and preprocessing.

    Raises:
        InputError: the model is no classifier, or resizes images by another interpolation than
            bilinear or bicubic.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.deploy import WithPreprocessing
        >>> from kat.models import load_model
        >>> classify = WithPreprocessing(*load_model(Path("runs/digits")))
        >>> found = classify(torch.zeros(30, 20, 3, dtype=torch.uint8))
        >>> list(found), found["indices"].shape
        (['indices', 'probabilities'], torch.Size([10]))
    """

    task = PICTURES

    def __init__(self, model: nn.Module, record: ModelRecord) -> None:
        super().__init__()
        if task_of(model) != DEFAULT_TASK or record.interpolation not in ("bilinear", "bicubic"):
            raise InputError(
                "only classifiers whose images are resized by bilinear or bicubic interpolation can"
                " be exported with their preprocessing"
            )
        self.model = model
        self.record = record
        self.prepare = DeviceTransform(record.mean, record.std)
        self.by_pillow = eval_transform(record, normalize=False)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """Return the indices of the classes, the most likely first, and their probabilities."""
        if torch.compiler.is_compiling():
            pixels = self._pixels(picture)
        else:
            pixels = self.by_pillow(Image.fromarray(picture.numpy()))
        logits = self.model(self.prepare(pixels[None]))[0]
        probabilities, indices = logits.softmax(-1).sort(descending=True)
        return {"indices": indices, "probabilities": probabilities}

    def _pixels(self, picture: Tensor) -> Tensor:
        """Return the pixels that the model sees, (C, height, width) uint8."""
        height, width, _ = picture.shape
        channels, rows, columns = self.record.input_size
        pixels = picture.permute(2, 0, 1).double()
        if channels == 1:
            pixels = _rounded((pixels * _GRAY).sum(0, keepdim=True))
        shorter = torch.sym_min(height, width)
        down = self._along(height, shorter, rows)
        across = self._along(width, shorter, columns)
        return _rounded(down @ _rounded(pixels @ across.T)).to(torch.uint8)

    def _along(self, side: int, shorter: int, kept: int) -> Tensor:
        """Return resize and central crop along one side as a matrix (kept, side).

        Args:
            side: pixels; a symbol in a tracer, as ``shorter`` is.
            shorter: of both sides.
            kept: pixels after the crop.
        """
        new = math.floor(kept / self.record.crop_pct) * side // shorter
        scaled = torch.scalar_tensor(new, dtype=torch.float64)
        places = ((scaled - kept) / 2).round() + torch.arange(kept)
        weights = resampling(side, side / scaled, places, self.record.interpolation)
        return (weights * _BITS).round() / _BITS


def _rounded(pixels: Tensor) -> Tensor:
    """Round to whole pixels from 0 to 255, as Pillow does."""
    return (pixels + 0.5).floor().clamp(0, 255)
