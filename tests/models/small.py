"""Small models in which everything counts, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from kat.models import ModelRecord, build_model

ARGS = {"patch_size": 2, "num_groups": 4, "depth": 2, "embed_dim": 64, "num_heads": 2}


def record_of(
    architecture: str,
    input_size: tuple[int, int, int],
    args: dict[str, Any],
    classes: Iterable[str] = ("ant", "bee", "cat"),
) -> ModelRecord:
    """A record, with preprocessing that is no model's default."""
    channels = input_size[0]
    return ModelRecord(
        architecture=architecture,
        classes=list(classes),
        input_size=input_size,
        mean=(0.3,) * channels,
        std=(0.4,) * channels,
        interpolation="bilinear",
        crop_pct=0.9,
        args=args,
    )


def make_record(**args: Any) -> ModelRecord:
    """A gray 8x8 kat_micro of two blocks, three classes."""
    return record_of("kat_micro", (1, 8, 8), {**ARGS, **args})


def make_model(**args: Any) -> tuple[nn.Module, ModelRecord]:
    """That model, every parameter moved off its initial value, b_j of both signs."""
    record = make_record(**args)
    generator = torch.Generator().manual_seed(0)
    model = build_model(record).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, record


def images(count: int, height: int = 8, width: int = 8) -> torch.Tensor:
    """Noise."""
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(1))
