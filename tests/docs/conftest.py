from __future__ import annotations

from pathlib import Path

import pytest

from examples.items import make_items
from kat.data import DataConfig
from kat.training import ModelConfig, MonitorConfig, TrainConfig, train
from tests.images import write_photos


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory) -> Path:
    """A folder with what the examples read: a run, images by class, images with masks."""
    folder = tmp_path_factory.mktemp("reader")
    write_photos(folder / "photos", train=4, val=1)
    make_items(folder / "items", source="digits", images=4, val_images=2, size=64)
    config = TrainConfig(
        out=str(folder / "runs" / "digits"),
        epochs=2,
        limit_train_batches=3,
        accelerator="cpu",
        progress=False,
        model=ModelConfig("kat_micro_patch2_8", {"depth": 1}),
        data=DataConfig("digits"),
        monitor=MonitorConfig(enabled=True, every_n_steps=2),
    )
    train(config)
    return folder
