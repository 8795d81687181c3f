"""Helpers of the tests of examples/domains."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "examples" / "domains"
ARMS = ("gelu", "swiglu", "grkan", "gated_grkan", "frozen")


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_script(name: str, *options: str | Path) -> str:
    command = [sys.executable, FOLDER / name, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run_twice(name: str, path: Path, *options: str | Path) -> tuple[list[dict[str, str]], str]:
    """The rows of a script with two arms and one seed, and what it prints; again it makes none."""
    command = (name, *options, "--seed", "1", "--csv", path)
    printed = run_script(*command)
    before, rows = path.read_bytes(), rows_of(path)
    assert [row["for"] for row in rows] == ["tune"] * 6 + ["test"] * 2
    assert [row["test"] == "" for row in rows] == [True] * 6 + [False] * 2
    again = run_script(*command)
    assert path.read_bytes() == before
    assert ", seed 1, rate" not in again
    assert list(path.parent.iterdir()) == [path]
    return rows, printed


def train(example, layer, x, checkpoint, steps, stop_at=None):
    """Trains to give the sine of the input, from batches that torch's generator draws."""
    trial = example("runner").Trial("t", "a", 1e-2, 0, steps, torch.device("cpu"), checkpoint)
    calls = []

    def loss():
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        batch = x[torch.randint(len(x), (16,))]
        return (nn.functional.dropout(layer(batch), 0.1) - batch.sin()).square().mean()

    def validate():
        with torch.no_grad():
            return (layer(x) - x.sin()).square().mean().item()

    return example("training").train(trial, layer, loss, validate) | {"calls": len(calls)}
