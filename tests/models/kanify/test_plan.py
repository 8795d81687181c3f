"""Plans: the table, applying and undoing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from tests.models.kanify.models import MODELS, encoder, output, sequential, state

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


@pytest.mark.parametrize("name", MODELS)
def test_undo_restores_the_same_objects_and_keeps_trained_weights(name):
    model = MODELS[name][0]()
    before = state(model)
    plan = kat.kanify(model)
    assert state(model) != before
    with torch.no_grad():
        next(model.parameters()).fill_(0.5)
    plan.undo()
    assert state(model) == before
    assert (next(model.parameters()) == 0.5).all()
    plan.apply()
    with pytest.raises(InputError, match="in place already"):
        plan.apply()
    plan.undo()
    with pytest.raises(InputError, match="nothing to undo"):
        plan.undo()


def test_undo_is_refused_if_the_rational_was_replaced():
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    model[1] = nn.ReLU()
    with pytest.raises(InputError, match="1 has been replaced since"):
        plan.undo()
    assert isinstance(model[0].act1, kat.GroupRational)


def test_undo_is_refused_if_the_linear_map_was_replaced():
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    model[0] = copy.deepcopy(model[0])
    with pytest.raises(InputError, match=r"0\.act1 has been replaced since"):
        plan.undo()
    assert plan.applied
    del model[3], model[0]
    with pytest.raises(InputError, match=r"0\.act1 has been replaced since"):
        plan.undo()


def replace_activation(model: nn.Sequential) -> None:
    model[1] = nn.GELU()


def replace_first(model: nn.Sequential) -> None:
    model[0] = nn.Linear(16, 32)


def replace_second(model: nn.Sequential) -> None:
    model[3] = nn.Linear(32, 8)


def remove(model: nn.Sequential) -> None:
    del model[3]


@pytest.mark.parametrize(
    "change", [kat.kanify, replace_activation, replace_first, replace_second, remove]
)
def test_a_plan_is_refused_if_the_model_has_changed(change):
    model = nn.Sequential(Mlp(8, 16), sequential(nn.GELU()))
    plan = kat.kanify(model, dry_run=True)
    change(model[1])
    before = state(model)
    with pytest.raises(InputError, match=r"1\.1 has been changed since it was planned"):
        plan.apply()
    assert state(model) == before
    assert not plan.applied


def test_a_plan_is_applied_in_the_present_dtype_of_the_weights():
    torch.manual_seed(0)
    model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.double()
    plan.apply()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    plan.undo()
    model.bfloat16()
    plan.apply()
    assert output(model, torch.randn(2, 16).bfloat16()).dtype == torch.bfloat16


def test_a_plan_made_on_the_meta_device_is_applied_with_its_coefficients():
    model = sequential(nn.GELU())
    expected = kat.kanify(copy.deepcopy(model), dry_run=True).replacements[0]
    with torch.device("meta"):
        model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.to_empty(device="cpu")
    plan.apply()
    assert torch.equal(model[1].weight_numerator, expected.act2.weight_numerator)
    assert torch.equal(model[0].act1.weight_denominator, expected.act1.weight_denominator)


def test_plans_are_undone_in_the_reverse_order_only():
    model = encoder()
    before = state(model)
    first, second = kat.kanify(model, 0), kat.kanify(model, 0)
    between = state(model)
    with pytest.raises(InputError, match="a later plan for this model is in place"):
        first.undo()
    assert state(model) == between
    second.undo()
    first.undo()
    assert state(model) == before
    second.apply()  # in the reverse of the order in which they were made
    first.apply()
    with pytest.raises(InputError, match="a later plan"):
        second.undo()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_plan_is_neither_copied_nor_pickled(duplicate):
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    with pytest.raises(InputError, match="cannot be copied or pickled; save"):
        duplicate(plan)
    assert plan.applied
    plan.undo()
    assert isinstance(model[1], nn.GELU)
