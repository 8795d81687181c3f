"""Small models that adapters are put into, the same each time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kat

KINDS = ("rational", "low_rank", "parallel")
each_kind = pytest.mark.parametrize("kind", KINDS)
X = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


def model_for(kind, make=plain):
    """The same model each time, with rationals unless the adapters are beside the MLPs."""
    model = make()
    if kind != "parallel":
        kat.kanify(model)
    return model


def trained(model):
    """Changes all that is trainable, by a step large enough to be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def trainable(model):
    """Return True for each parameter that is trained, by its name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@torch.no_grad()
def output(model, x=X):
    return model.eval()(x)
