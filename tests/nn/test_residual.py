"""The residual form: against its formula in float64, and in the layers and models that take it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import kat
from kat.analysis import learned_activations
from kat.deploy import freeze
from kat.nn import ResidualRational, StabilityMonitor, make_residual_, rationals

CREATE = kat.models.create_model


def _drawn(module):
    """Gives every rational a numerator that is not zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for rational in rationals(module).values():
            rational.weight_numerator.add_(0.1 * torch.randn_like(rational.weight_numerator))
    return module


def _formula(act, x):
    """SiLU(x) + P(x) / Q(x), by powers, each channel with the coefficients of its group."""
    a, b = (
        (w if len(w) > 1 else w.expand(act.num_groups, -1))
        .repeat_interleave(x.shape[-1] // act.num_groups, 0)
        .double()
        for w in (act.weight_numerator, act.weight_denominator)
    )
    x = x.double()
    powers = x[..., None] ** torch.arange(a.shape[1])
    q = 1 + (b.abs() * x.abs()[..., None] ** torch.arange(1, b.shape[1] + 1)).sum(-1)
    return x / (1 + torch.exp(-x)) + (a * powers).sum(-1) / q


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
def test_value_is_the_formula(share):
    act = _drawn(ResidualRational(4, share=share))
    x = 3 * torch.randn(5, 7, 16)
    assert torch.allclose(act(x).double(), _formula(act, x), rtol=1e-4, atol=1e-5)
    points = torch.linspace(-3, 3, 7)
    by_group = act.functions(points)
    assert torch.allclose(by_group, _formula(act, points[:, None].expand(-1, 4)).T, atol=1e-6)
    first = _drawn(ResidualRational(4, channel_dim=1))
    assert torch.allclose(first(x.movedim(-1, 1)).movedim(1, -1).double(), _formula(first, x),
                          rtol=1e-4, atol=1e-5)  # fmt: skip


def test_gradients_are_those_of_finite_differences():
    act = _drawn(ResidualRational(2, dtype=torch.float64))
    with torch.no_grad():
        act.weight_denominator.add_(0.1)  # |b| has no derivative at 0
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: act(x), (x, *act.parameters()))


@pytest.mark.parametrize("make", [kat.GRKANMlp, kat.GatedGRKANMlp])
def test_layers_are_their_formula_and_can_be_reset(make):
    mlp = make(8, 16)
    make_residual_(mlp)
    _drawn(mlp)
    x = torch.randn(5, 8)
    wide = mlp.double()
    if make is kat.GRKANMlp:
        assert type(wide.act1) is kat.GroupRational  # it starts as the identity
        hidden = _formula(wide.act2, wide.fc1(wide.act1(x.double())))
    else:
        hidden = _formula(wide.act, wide.fc1_g(x.double())) * wide.fc1_x(x.double())
    expected = wide.fc2(hidden)
    assert torch.allclose(mlp.float()(x), expected.float(), rtol=1e-4, atol=1e-5)
    mlp.reset_parameters()
    act = mlp.act2 if make is kat.GRKANMlp else mlp.act
    assert torch.equal(act(torch.linspace(-3, 3, 16)), functional.silu(torch.linspace(-3, 3, 16)))


@pytest.mark.parametrize("scheme", ["variance_preserving", "centered"])
def test_weights_drawn_again_have_the_variance_of_the_function(scheme):
    mlp = kat.GRKANMlp(64, 256, weight_init=scheme)
    make_residual_(mlp)
    _drawn(mlp)
    mlp.init_weights()
    with torch.no_grad():
        y = mlp.fc2(mlp.act2(torch.randn(20_000, 256)))
    assert y.square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("args", [{}, {"first_init": "none"}, {"num_groups": "channels"}])
@pytest.mark.parametrize("family", ["kat", "kat_glu"])
def test_models_train_save_freeze_and_are_monitored(family, args):
    if family == "kat_glu" and "first_init" in args:
        args = {"packed": True}
    name = f"{family}_micro_patch2_8"
    torch.manual_seed(0)
    plain = CREATE(name, **args)
    torch.manual_seed(0)
    model = CREATE(name, residual=True, **args)
    x = torch.randn(2, 3, 8, 8)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    assert torch.allclose(model(x), plain(x), atol=1e-4)  # the preset's error
    act = "act2" if family == "kat" else "act"
    rows = [_record(each, x)[f"blocks.0.mlp.{act}"] for each in (model, plain)]
    assert rows[0] == pytest.approx(rows[1], rel=2e-2, abs=1e-3)
    _drawn(model)
    assert not torch.allclose(model(x), plain(x), atol=1e-4)
    loaded = CREATE(name, residual=True, **args)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(x), model(x))
    assert torch.allclose(freeze(model)(x), model.eval()(x), atol=1e-5)
    coefficients = {n for n, _ in model.named_parameters() if "weight_numerator" in n}
    assert coefficients <= model.no_weight_decay()
    model.init_weights()


def _record(model, x):
    """What the monitor says of each layer: its moments, gain and gradients."""
    monitor = StabilityMonitor(1)
    monitor.attach(model)
    monitor.watch()
    model.zero_grad()
    model(x).sum().backward()
    kept = ("gain", "activation_variance", "output_variance", "dead_groups", "weight_gradient")
    return {row["layer"]: {name: row.get(name) for name in kept} for row in monitor.record(0)}


def test_inspection_shows_the_whole_function():
    model = _drawn(CREATE("kat_glu_micro_patch2_8", depth=1, residual=True))
    (activation,) = learned_activations(model)
    x = torch.tensor(activation.x)
    assert torch.allclose(torch.tensor(activation.start[0]), functional.silu(x))
    expected = _formula(model.blocks[0].mlp.act, x[:, None].expand(-1, 8)).T
    assert torch.allclose(torch.tensor(activation.learned), expected, atol=1e-6)


def test_a_rational_in_two_places_stays_one():
    act = kat.GroupRational(2)
    model = nn.Sequential(act, nn.Linear(4, 4), act)
    make_residual_(model)
    assert model[0] is model[2]
    assert isinstance(model[0], ResidualRational)


@pytest.mark.parametrize(
    "make", [lambda: kat.GRKANMlp(8, act_init="gelu"), lambda: kat.GroupRational(2)]
)
def test_what_has_no_place_for_it_is_refused(make):
    with pytest.raises(ValueError, match="inside a model that start as Swish"):
        make_residual_(make())
