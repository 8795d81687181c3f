"""Small models in which everything counts, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kat.models import ModelRecord, build_model
from tests.records import RECORD

ARGS = {"patch_size": 2, "num_groups": 4, "depth": 2, "embed_dim": 64, "num_heads": 2}


def make_record(**args: Any) -> ModelRecord:
    """A grey 8x8 kat_micro of two blocks, three classes."""
    return replace(
        RECORD, architecture="kat_micro", classes=["ant", "bee", "cat"], mean=(0.3,), std=(0.4,),
        interpolation="bilinear", crop_pct=0.9, args={**ARGS, **args},
    )  # fmt: skip


def make_dense_record(name: str, side: int, **args: Any) -> ModelRecord:
    """A detector or a segmentation model of square RGB images, three classes."""
    return ModelRecord(
        architecture=name,
        classes=["ant", "bee", "cat"],
        input_size=(3, side, side),
        mean=(0.3,) * 3,
        std=(0.4,) * 3,
        interpolation="bilinear",
        crop_pct=1.0,
        args=args,
    )


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
