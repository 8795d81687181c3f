"""A small model, its record and batches for it, for tests of training."""

from __future__ import annotations

import time
from typing import Any

import timm
import torch
from lightning.pytorch import Trainer

from kat.data import Batch
from kat.models import ModelRecord
from kat.training import Classifier, TrainConfig

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


class Slow(torch.utils.data.Dataset):
    """Four batches, each of which takes a while to come."""

    def __init__(self, seconds: float) -> None:
        self.items, self.seconds = batches(4), seconds

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        time.sleep(self.seconds)
        return self.items[index]


def fit_slowly(train: float, val: float, **settings: Any) -> Trainer:
    """An epoch of four batches that take so many seconds each to load, and four to validate."""
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    model = timm.create_model("kat_micro_patch2_8", in_chans=1)
    loaders = [torch.utils.data.DataLoader(Slow(s), batch_size=None) for s in (train, val)]
    trainer.fit(Classifier(model, RECORD, TrainConfig(epochs=1)), *loaders)
    return trainer
