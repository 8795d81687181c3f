from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.items import make_items
from kat.data import DataConfig
from kat.training import ModelConfig, MonitorConfig, TrainConfig, train


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory) -> Path:
    """A folder with what the examples read: a run, images by class, images with masks."""
    folder = tmp_path_factory.mktemp("reader")
    draws = np.random.default_rng(0)
    for split, images in (("train", 4), ("val", 1)):
        for name in ("cat", "dog"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for index in range(images):
                pixels = draws.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                path = folder / "photos" / split / name / f"{index}.png"
                Image.fromarray(pixels).save(path)
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
