"""A small model's record and batches for it, for tests of training."""

from __future__ import annotations

import torch

from kat.data import Batch
from kat.models import ModelRecord

RECORD = ModelRecord(
    architecture="kat_micro_patch2_8",
    classes=[str(i) for i in range(10)],
    input_size=(1, 8, 8),
    mean=(0.5,),
    std=(0.5,),
    interpolation="bicubic",
    crop_pct=1.0,
)


def batches(count: int, size: int = 8) -> list[Batch]:
    """Noise, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.randn(size, 1, 8, 8, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
            [],
        )
        for _ in range(count)
    ]
