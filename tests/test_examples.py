"""The example that ``make demo`` runs, and its files."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import timm

import kat  # noqa: F401  (registers the models)

ROOT = Path(__file__).parent.parent


def test_compare_models_leaves_its_table_its_plots_and_models_that_load(tmp_path):
    models = ["kat_micro_patch2_8", "vit_micro_patch2_8"]

    def compare(*options):
        command = [
            sys.executable, str(ROOT / "examples" / "compare_models.py"), "--models", *models,
            "--seeds", "0", "1", "--out", str(tmp_path), "--optim.warmup_epochs", "0",
            "--limit_train_batches", "2", "--progress", "false", *options,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    printed = compare("--epochs", "1")
    assert "kat_micro_patch2_8 minus vit_micro_patch2_8" in printed
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["model"], row["seed"]) for row in rows] == [
        (model, seed) for seed in "01" for model in models
    ]
    assert int(rows[0]["parameters"]) - int(rows[1]["parameters"]) == 4 * 2 * (6 + 32)
    for name in ("learning_curves.png", "activations-kat_micro_patch2_8.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    timm.create_model(f"local-dir:{tmp_path / 'kat_micro_patch2_8-seed0'}", pretrained=True)
    assert "seed 0\n" not in compare("--epochs", "1")
    assert "seed 0\n" in compare("--epochs", "2")
