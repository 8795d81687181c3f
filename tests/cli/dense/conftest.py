"""A small run of each dense task."""

from __future__ import annotations

import pytest

from tests.cli.commands import QUICK, run
from tests.cli.dense.small_dense import MODELS


@pytest.fixture(scope="session")
def runs(items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task, (name, args) in MODELS.items():
        kind = "coco" if task == "detection" else "ade20k"
        assert run(
            "train", "--config", f"examples/items_{task}.yaml",
            "--model.name", name, "--model.args", args,
            "--data.name", f"{kind}:{items}", "--data.image_size", 64, "--data.batch_size", 4,
            "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK, "--out", folder / task,
        ) == 0  # fmt: skip
    return folder
