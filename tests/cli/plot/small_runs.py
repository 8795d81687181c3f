"""Folders of runs as ``kat train`` leaves them, without the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from kat.data import DataConfig
from kat.models import build_model, save_model
from kat.tables import write_table
from kat.training import ModelConfig, OptimConfig, TrainConfig, settings_to_keep
from tests import records

RECORD = replace(records.RECORD, mean=(0.3,), std=(0.4,), crop_pct=0.8, args={"depth": 2})
SUMMARY = {
    "parameters": 1000, "top5": 99.0, "seconds": 60.0, "images_per_second": 50.0,
    "memory_bytes": 10**9, "epochs": 2, "best_epoch": 2,
}  # fmt: skip


def write_run(folder: Path, *, top1: float = 90.0, seed: int = 0, lr: float = 0.001) -> Path:
    """A finished run on digits with random weights, two epochs, and this top-1."""
    torch.manual_seed(seed)
    save_model(build_model(RECORD), RECORD, folder)
    config = TrainConfig(
        out=str(folder), seed=seed, model=ModelConfig(name=RECORD.architecture),
        data=DataConfig(name="digits"), optim=OptimConfig(lr=lr),
    )  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings_to_keep(config)))
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "top1": top1}))
    rows = [_row(1, top1 - 10), _row(2, top1)]
    write_table(folder / "history.csv", list(rows[0]), rows)
    return folder


def _row(epoch: int, top1: float) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": 2.0, "val_loss": 1.0, "top1": top1, "top5": 99.0}
