"""Models rebuilt from the record of a plan."""

from __future__ import annotations

import json
import re

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import images, output, state, vit


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
    assert rebuilt.record() == plan.record() == json.loads(json.dumps(plan.record()))
    assert str(rebuilt).splitlines()[:3] == str(plan).splitlines()[:3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(kanify=99), "no record of kanify of version 3"),
        (
            lambda record: record["mlps"][0]["mlp"].update(widths=[8, 16, 4]),
            "(8, 16, 4), with gelu",
        ),
        (lambda record: record["mlps"][0]["mlp"].update(function="silu"), "(8, 16, 8), with silu"),
        (lambda record: record["mlps"][0]["mlp"].update(activation="2.act"), "no MLP at 2.act"),
        (lambda record: record["mlps"][0]["mlp"].update(call=0), "no MLP at 0.act"),
    ],
)
def test_records_of_something_else_are_refused(change, message):
    model = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    before, record = state(model), kat.kanify(model, dry_run=True).record()
    change(record)
    with pytest.raises(InputError, match=re.escape(message)):
        kanify_like(model, record)
    assert state(model) == before


def test_a_record_is_of_a_model_without_rationals():
    model = vit()
    record = kat.kanify(model).record()
    with pytest.raises(InputError, match=r"no MLP at blocks\.0\.mlp\.act"):
        kanify_like(model, record)
