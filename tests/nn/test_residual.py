"""The residual form: against its formula in float64, and in the layers and models that take it."""

import pytest
import torch
from torch.nn import functional

import kat
from kat.deploy import freeze
from kat.nn import ResidualRational, StabilityMonitor, make_residual_, rationals

DRAWN = 0.1


def _drawn(module):
    """Gives every rational a numerator that is not zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for rational in rationals(module).values():
            rational.weight_numerator.add_(DRAWN * torch.randn_like(rational.weight_numerator))
    return module


def _formula(act, x):
    """SiLU(x) + P(x) / Q(x), by powers, each channel with the coefficients of its group."""
    a, b = (
        (w if len(w) > 1 else w.expand(act.rational.num_groups, -1))
        .repeat_interleave(x.shape[-1] // act.rational.num_groups, 0)
        .double()
        for w in (act.rational.weight_numerator, act.rational.weight_denominator)
    )
    x = x.double()
    powers = x[..., None] ** torch.arange(a.shape[1])
    q = 1 + (b.abs() * x.abs()[..., None] ** torch.arange(1, b.shape[1] + 1)).sum(-1)
    return x / (1 + torch.exp(-x)) + (a * powers).sum(-1) / q


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
def test_value_is_the_formula(share):
    act = _drawn(ResidualRational(kat.GroupRational(4, share=share)))
    x = 3 * torch.randn(5, 7, 16)
    assert torch.allclose(act(x).double(), _formula(act, x), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    act = _drawn(ResidualRational(kat.GroupRational(2, dtype=torch.float64)))
    with torch.no_grad():
        act.rational.weight_denominator.add_(0.1)  # |b| has no derivative at 0
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: act(x), (x, *act.parameters()))


def test_starts_as_silu_and_is_reset_to_it():
    act = _drawn(ResidualRational(kat.GroupRational(4)))
    x = torch.randn(6, 8)
    assert not torch.equal(act(x), functional.silu(x))
    act.rational.reset_parameters()
    assert torch.equal(act(x), functional.silu(x))


@pytest.mark.parametrize("make", [kat.GRKANMlp, kat.GatedGRKANMlp])
def test_layers_are_their_formula(make):
    mlp = make(8, 16)
    make_residual_(mlp)
    _drawn(mlp)
    x = torch.randn(5, 8)
    wide = mlp.double()
    if make is kat.GRKANMlp:
        assert isinstance(wide.act1, kat.GroupRational)  # it starts as the identity
        hidden = _formula(wide.act2, wide.fc1(wide.act1(x.double())))
    else:
        hidden = _formula(wide.act, wide.fc1_g(x.double())) * wide.fc1_x(x.double())
    expected = wide.fc2(hidden)
    assert torch.allclose(mlp.float()(x), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("args", [{}, {"first_init": "none"}, {"num_groups": "channels"}])
@pytest.mark.parametrize("family", ["kat", "kat_glu"])
def test_models_train_save_freeze_and_are_monitored(family, args):
    if family == "kat_glu" and "first_init" in args:
        args = {"packed": True}
    create = kat.models.create_model
    name = f"{family}_micro_patch2_8"
    torch.manual_seed(0)
    plain = create(name, **args)
    torch.manual_seed(0)
    model = create(name, residual=True, **args)
    x = torch.randn(2, 3, 8, 8)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    assert torch.allclose(model(x), plain(x), atol=1e-4)  # the preset's error
    _drawn(model)
    assert not torch.allclose(model(x), plain(x), atol=1e-4)
    loaded = create(name, residual=True, **args)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(x), model(x))
    assert torch.allclose(freeze(model)(x), model.eval()(x), atol=1e-5)
    monitor = StabilityMonitor(1)
    monitor.attach(model)
    monitor.watch()
    model(x).sum().backward()
    assert {row["layer"] for row in monitor.record(0)} >= set(rationals(model))
    coefficients = {n for n, _ in model.named_parameters() if "weight_numerator" in n}
    assert coefficients <= model.no_weight_decay()


def test_a_model_without_swish_is_refused():
    with pytest.raises(ValueError, match="no rational of the model starts as Swish"):
        make_residual_(kat.GRKANMlp(8, act_init="gelu"))
