"""Adapters in a model: the function at the start, what is trained, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import kat
from kat.errors import InputError
from tests.models.adapt.models import X, each_kind, model_for, output, plain, trained


@each_kind
def test_the_function_is_unchanged_and_only_adapters_get_gradients(kind):
    model = model_for(kind)
    before, names = output(model), {name for name, _ in model.named_parameters()}
    adapters = kat.adapt(model, kind)
    assert torch.equal(output(model), before)
    trained(model).train()(X).square().sum().backward()
    assert not torch.allclose(output(model), before, atol=1e-3)
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    assert found == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    assert not found & names
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable: {numbers} of" in str(adapters)


def test_a_low_rank_change_is_u_v_in_the_scales_of_the_powers():
    act = kat.GroupRational(8, init="gelu")
    model = nn.Sequential(nn.Linear(16, 32), act)
    start = act.weight_numerator.detach().clone()
    kat.adapt(model, "low_rank", rank=2)
    trained(model)
    change = act.parametrizations.weight_numerator[0]
    assert not act.parametrizations.weight_numerator.original.requires_grad
    delta = (act.weight_numerator - start).detach()
    with torch.autocast("cpu", torch.bfloat16):  # leaves it in float32
        assert torch.equal(act.weight_numerator - start, delta)
    assert delta.shape == (8, 6)
    assert torch.linalg.matrix_rank(delta / change.scale, rtol=1e-3) == 2
    torch.testing.assert_close(delta, change.u.detach() @ change.v.detach() * change.scale)
    # The scale is one over the largest slope on [-6, 6], here by autograd.
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    parts = [p.detach().double()[:1] for p in kat.GroupRational(8, init="gelu").parameters()]
    slopes = torch.autograd.functional.jacobian(
        lambda a, b: kat.rational(x[:, None], a, b, impl="reference")[:, 0], tuple(parts)
    )
    for slope, name in zip(slopes, ("weight_numerator", "weight_denominator"), strict=True):
        largest = slope[:, 0].abs().amax(0).float()
        torch.testing.assert_close(1 / act.parametrizations[name][0].scale, largest)


def test_ranks_are_no_larger_than_the_matrix_and_polynomials_have_no_denominator():
    act = kat.GroupRational(4, (3, 0), init="identity")
    nn.init.zeros_(act.weight_numerator)  # whose slopes are 0
    kat.adapt(act, "low_rank", rank=99)
    assert act.parametrizations.weight_numerator[0].u.shape == (4, 4)
    assert not parametrize.is_parametrized(act, "weight_denominator")
    assert not output(act).any()


@each_kind
def test_half_precision_is_trained_in_float32(kind, tmp_path):
    model = model_for(kind).to(torch.bfloat16)
    before = output(model, X.bfloat16())
    adapters = kat.adapt(model, kind)
    y = output(model, X.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, before)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    adapters.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@each_kind
def test_coefficients_have_a_rate_of_their_own(kind):
    model = model_for(kind)
    kat.adapt(model, kind, modules_to_save="0")
    groups = kat.param_groups(model, 0.1, coefficient_lr=0.01, weight_decay=0.2)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    coefficients = {id(p) for act in kat.nn.rationals(model).values() for p in act.parameters()}
    for key, rate in rates.items():
        assert (rate == (0.01, 0)) == (key in coefficients)
    assert rates[id(model[0].weight)] == (0.1, 0.2)


@each_kind
def test_compiled_and_checkpointed_models_have_the_same_gradients(kind):
    model = model_for(kind)
    kat.adapt(model, kind)
    trained(model)

    def gradients(call):
        model.zero_grad()
        call(X).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)

    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = gradients(model)
    for call in (checkpointed, compiled):
        torch.testing.assert_close(gradients(call), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kat.adapt(plain(), "rational"), "Sequential has no rational; kat.kanify"),
        (lambda: kat.adapt(model_for("rational"), "parallel"), "adapt first"),
        (lambda: kat.adapt(plain(), "lora"), "kind must be one of .*'lora'"),
        (lambda: kat.adapt(plain(), "parallel", rank=2), "rank=2 has no meaning"),
        (lambda: kat.adapt(plain(), "parallel").merge(), "parallel adapters cannot be merged"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@each_kind
def test_a_second_adapter_in_one_place_is_refused(kind):
    model = model_for(kind, lambda: nn.Sequential(plain(), plain()))
    kat.adapt(model, kind, "0")
    with pytest.raises(InputError, match=r"remove\(\)"):
        kat.adapt(model, kind)
    kat.adapt(model, kind, exclude="0")


@pytest.mark.parametrize("change", [kat.kanify, lambda model: kat.adapt(model, "parallel")])
def test_a_compiled_model_is_refused(change):
    with pytest.raises(InputError, match="OptimizedModule"):
        change(torch.compile(plain()))
