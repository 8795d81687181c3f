"""Plans: the table, and applying."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from tests.models.kanify.models import output, sequential, state

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


def test_the_plan_is_a_table_and_a_dry_run_changes_nothing():
    odd = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU())
    model = nn.Sequential(Mlp(8, 16), odd, Mlp(8, 15, act_layer=nn.SiLU))
    before = state(model)
    lines = str(kat.kanify(model, dry_run=True)).splitlines()
    assert state(model) == before
    assert lines[0].split()[:4] == ["MLP", "widths", "function", "groups"]
    assert lines[1].split()[:6] == ["0.act", "8-16-8", "gelu", "8,", "8", "76"]
    assert lines[2].split()[:6] == ["2.act", "8-15-8", "silu", "8,", "5", "64"]
    assert lines[3] == "MLPs: 2, parameters added: 140, not in place"
    assert lines[4] == "passed over: 1.1: its input comes from Conv2d, not a linear map"


def test_a_plan_is_applied_in_the_present_dtype_of_the_weights():
    torch.manual_seed(0)
    model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.double()
    plan.apply()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert output(model, torch.randn(2, 16).double()).dtype == torch.float64
    with pytest.raises(InputError, match=r"0\.act1, 1: there is a rational already"):
        plan.apply()
