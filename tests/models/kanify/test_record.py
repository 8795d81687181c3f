"""Models rebuilt from the record of a plan."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import encoder, images, output, state, vit


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


def test_records_that_do_not_fit_are_refused(tmp_path):
    record = kat.kanify(vit(), dry_run=True).record()
    model = encoder()
    before = state(model)
    for bad, message in (
        (record, "the record is of another model: no MLP at blocks.0.mlp.act"),
        ({"mlps": [{}]}, "not a record of kanify"),
        ({"mlps": [{"mlp": {**record["mlps"][0]["mlp"], "widths": [1]}}]}, "not a record"),
        ([], "not a record of kanify"),
        (tmp_path / "none.json", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(message)):
            kanify_like(model, bad)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        kanify_like(model, str(tmp_path / "text.json"))
    wider = copy.deepcopy(record)
    wider["mlps"][0]["mlp"]["widths"] = [1, 2, 3]
    with pytest.raises(InputError, match="has the widths"):
        kanify_like(vit(), wider)
    assert state(model) == before
    kanified = vit()
    kanify_like(kanified, record)
    with pytest.raises(InputError, match="is a rational already"):
        kanify_like(kanified, record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(kanify=99), "the record has version 99; only 3"),
        (lambda record: record["mlps"].clear(), "it names no MLP"),
        (lambda record: record["mlps"].append(record["mlps"][0]), "it names an MLP twice"),
        (lambda record: record["mlps"][0].update(groups=[3, 8]), "groups=3 does not divide"),
        (lambda record: record["mlps"][0].update(groups=[8, "8"]), "must be an integer, got '8'"),
        (lambda record: record["mlps"][0].update(groups=[8, None]), "not a record of kanify"),
        (lambda record: record["mlps"][0].update(max_error="small"), "not a record of kanify"),
        (
            lambda record: record["mlps"][0]["mlp"].update(activation="0.fc2"),
            "0.fc2 is Linear here, not gelu",
        ),
        (
            lambda record: record["mlps"][0]["mlp"].update(function="silu"),
            "0.act is GELU here, not silu",
        ),
    ],
)
def test_records_of_something_else_are_refused(change, message):
    model = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    before, record = state(model), kat.kanify(model, dry_run=True).record()
    change(record)
    with pytest.raises(InputError, match=re.escape(message)):
        kanify_like(model, record)
    assert state(model) == before
