"""The change of a model's output: warned of from the error of a fit."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import kat


def _model(activation):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 64), activation(), nn.Linear(64, 16), nn.LayerNorm(16)]
    return nn.Sequential(*layers, nn.Linear(16, 64), activation(), nn.Linear(64, 4))


def test_relu_warns():
    with pytest.warns(UserWarning, match="fit to relu in 1 is off by .* 2 of 2 fits"):
        kat.kanify(_model(nn.ReLU))


def test_gelu_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kat.kanify(_model(nn.GELU))
