"""MLPs that run in blocks of a few rows, and the same by their modules."""

from __future__ import annotations

import pytest
import torch

import kat

ROWS = 5
OPTIONS = [
    {},
    {"form": "B", "share": "none", "degree": (4, 3)},
    {"bias": False, "share": "denominator"},
    {"first_init": "none"},
]


each_keep = pytest.mark.parametrize("keep", ["hidden", "input"])
"""What is kept for the backward pass."""


def make_mlp(**options):
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(16, 32, 24, **options).eval()
    with torch.no_grad():
        for name, parameter in mlp.named_parameters():
            if "weight_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return mlp


def one_by_one(mlp, x):
    return mlp.fc2(mlp.act2(mlp.fc1(mlp.act1(x))))


def note_call(module, *rest):
    """A hook that notes that it was called."""
    module.called = True
