"""Plans: the table, applying, and models rebuilt from the record."""

from __future__ import annotations

import re

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import images, output, sequential, state, vit


def test_the_plan_is_a_table_and_a_dry_run_changes_nothing():
    odd = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU())
    model = nn.Sequential(Mlp(8, 16), odd, Mlp(8, 15, act_layer=nn.SiLU))
    before = state(model)
    lines = str(kat.kanify(model, dry_run=True)).splitlines()
    assert state(model) == before
    assert lines[0].split()[:4] == ["activation", "widths", "function", "groups"]
    assert lines[1].split()[:5] == ["0.act", "8-16-8", "gelu", "8", "38"]
    assert lines[2].split()[:5] == ["2.act", "8-15-8", "silu", "5", "26"]
    assert "64" in lines[3]
    assert lines[4].startswith("not calibrated: 2")
    assert "1.1: " in lines[5]
    assert 'what="activations") takes 1' in lines[6]


def test_a_plan_is_applied_in_the_present_dtype_of_the_weights():
    torch.manual_seed(0)
    model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.double()
    plan.apply()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert output(model, torch.randn(2, 16).double()).dtype == torch.float64
    with pytest.raises(InputError, match="rational already"):
        plan.apply()
    with pytest.raises(InputError, match="rational already"):
        kat.kanify(model)


def test_a_kanified_model_is_rebuilt_from_its_record_and_state_dict(tmp_path):
    model = vit()
    config = kat.KanifyConfig(groups=4, degree=(3, 2), share="none")
    plan = kat.kanify(model, ["blocks.1", "blocks.3"], config=config, calibration=[images()])
    plan.save(tmp_path / "kanify.json")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    again = vit()
    rebuilt = kanify_like(again, tmp_path / "kanify.json")
    trained, fitted = (m.blocks[1].mlp.act.weight_numerator for m in (model, again))
    torch.testing.assert_close(trained, 1.1 * fitted)
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, images()), output(model, images()))
    assert rebuilt.record() == plan.record()
    assert str(rebuilt).splitlines()[:3] == str(plan).splitlines()[:3]


class Swish(nn.Module):
    """With a slope that is learned."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


def test_a_record_has_functions_that_a_new_model_has_not_learned_yet():
    model = sequential(Swish())
    nn.init.constant_(model[1].beta, 1.3)
    record = kat.kanify(model).record()
    again = sequential(Swish())
    kanify_like(again, record)
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(kanify=5), "no record of kanify of version 6"),
        (lambda record: record["mlps"][0]["mlp"].update(function="silu"), "0.act is no silu"),
        (lambda record: record["mlps"][0]["mlp"].update(widths=[8, 9, 8]), "widths (8, 9, 8)"),
        (lambda record: record["mlps"][0]["mlp"].update(activation="2.act"), "2.act is no gelu"),
    ],
)
def test_records_of_something_else_are_refused(change, message):
    model = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    before, record = state(model), kat.kanify(model, dry_run=True).record()
    change(record)
    with pytest.raises(InputError, match=re.escape(message)):
        kanify_like(model, record)
    assert state(model) == before
