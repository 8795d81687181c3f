"""Models that take images of any size that their patches divide."""

from __future__ import annotations

from typing import Any

from torch import nn

from kat.errors import InputError
from kat.models import ModelRecord, build_model
from kat.models.dense import DenseModel


def make_resizable(model: nn.Module, record: ModelRecord) -> nn.Module:
    """The same model with ``dynamic_img_size=True``, which resamples its position embeddings.

    Raises:
        InputError: the architecture has no such option.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.deploy import make_resizable
        >>> from kat.models import load_model
        >>> model = make_resizable(*load_model(Path("runs/digits")))
        >>> model(torch.randn(1, 1, 16, 12)).shape
        torch.Size([1, 10])
    """
    if isinstance(model, DenseModel):
        raise InputError(f"{record.architecture} can be exported for one image size only")
    resizable = build_model(record, dynamic_img_size=True).to(next(model.parameters()))
    resizable.load_state_dict(model.state_dict())
    return resizable.eval()


def size_step(model: nn.Module) -> tuple[int, int] | None:
    """(height, width), of which the sides of images are multiples; None if the size is fixed."""
    if not getattr(model, "dynamic_img_size", False):
        return None
    patch_embed: Any = model.patch_embed
    height, width = patch_embed.patch_size
    return height, width
