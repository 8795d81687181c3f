"""What the tests of examples/domains share."""

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
