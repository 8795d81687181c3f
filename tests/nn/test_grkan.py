"""GR-KAN layers and their initialization."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.layers import Mlp
from torch import nn

import kat
from kat.errors import InputError
from kat.nn import init_attention_mimetic_, init_grkan_
from kat.nn.quadrature import moments
from tests.marks import most_at_night

WIDTH, DEPTH, DRAWS = 192, 12, 20


@pytest.mark.parametrize("recorded", [False, True])
def test_a_changed_width_is_refused_until_it_is_told(recorded):
    mlp = kat.GRKANMlp(16, 64)
    mlp.fc1, mlp.fc2 = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
    with torch.set_grad_enabled(recorded):
        with pytest.raises(
            InputError, match=r"64 channels into 8 groups, and x has 32.*num_channels"
        ):
            mlp(torch.randn(4, 16))
        mlp.act2.num_channels = 32
        assert mlp(torch.randn(4, 16)).shape == (4, 16)


def test_linear_is_w_f_of_x_plus_bias():
    layer = kat.GRKANLinear(16, 5, num_groups=4)
    x = torch.randn(3, 16)
    expected = torch.nn.functional.silu(x) @ layer.fc.weight.T + layer.fc.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_mlp_starts_as_the_ordinary_mlp():
    mlp = Mlp(16, 64, act_layer=nn.SiLU)
    ours = kat.GRKANMlp(16, 64)
    ours.load_state_dict(mlp.state_dict(), strict=False)
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(ours(x), mlp(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("biases", [(True, False), [False, True]])
def test_mlp_options_reach_their_place_and_pairs_are_one_for_each_layer_as_in_timm(biases):
    """Each layer by itself, on arithmetic of its own: as a truth value every pair is True."""
    options = {"norm_layer": nn.LayerNorm, "bias": biases, "drop": (0.25, 0.5)}
    mlp, theirs = kat.GRKANMlp(16, 32, 8, num_groups=2, **options), Mlp(16, 32, 8, **options)
    assert (mlp.drop1.p, mlp.drop2.p) == (0.25, 0.5)
    assert isinstance(kat.GRKANMlp(16, drop=0.5, first_init="none").drop1, nn.Identity)
    for ours, other in ((mlp.fc1, theirs.fc1), (mlp.fc2, theirs.fc2)):
        assert (ours.bias is None) == (other.bias is None)
    x = torch.randn(3, 16)
    hidden = mlp.norm(mlp.act2(mlp.fc1(mlp.act1(x))))
    y = nn.functional.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp.eval()(x), y)


@pytest.mark.parametrize(
    ("scheme", "std1", "std2"),
    [
        ("variance_preserving", WIDTH**-0.5, (2.8108 / (4 * WIDTH)) ** 0.5),
        ("centered", WIDTH**-0.5, (3.1941 / (4 * WIDTH)) ** 0.5),
        ("kaiming", (2 / WIDTH) ** 0.5, (2 / (4 * WIDTH)) ** 0.5),
        ("trunc_normal", 0.02, 0.02),
    ],
)
def test_weight_scale_of_each_scheme(scheme, std1, std2):
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(WIDTH, 4 * WIDTH, weight_init=scheme)
    assert mlp.fc1.weight.std().item() == pytest.approx(std1, rel=0.02)
    assert mlp.fc2.weight.std().item() == pytest.approx(std2, rel=0.02)
    assert not mlp.fc1.bias.any()


def _moments(scheme: str, act_init: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moment after each of 12 MLPs, and of the gradient before each, both from unit ones."""
    forward, backward = torch.zeros(DEPTH), torch.zeros(DEPTH)
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        options = {"weight_init": scheme, "act_init": act_init}
        stack = [kat.GRKANMlp(WIDTH, 4 * WIDTH, **options) for _ in range(DEPTH)]
        inputs = [torch.randn(64, WIDTH, requires_grad=True)]
        for mlp in stack:
            inputs.append(mlp(inputs[-1]))
            inputs[-1].retain_grad()
        inputs[-1].backward(torch.randn(64, WIDTH))
        forward += torch.stack([x.detach().square().mean() for x in inputs[1:]]) / DRAWS
        backward += torch.stack([x.grad.square().mean() for x in inputs[:-1]]) / DRAWS
    return forward, backward


def _within(moments: torch.Tensor) -> bool:
    return bool(((moments >= 0.8) & (moments <= 1.25)).all())


@pytest.mark.slow
@pytest.mark.parametrize("act_init", ["swish", pytest.param("gelu", marks=pytest.mark.release)])
def test_centered_init_keeps_the_second_moment_through_twelve_layers(act_init, record_property):
    forward, backward = _moments("centered", act_init)
    record_property("forward", [round(v, 3) for v in forward.tolist()])
    record_property("backward", [round(v, 3) for v in backward.tolist()])
    assert _within(forward), forward


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act_init", "depth"),
    most_at_night(
        [("tanh", DEPTH), ("relu", DEPTH), ("gelu", 9), ("swish", 6)],
        [("tanh", DEPTH), ("swish", 6)],
    ),
)
def test_the_papers_init_keeps_it_layer_by_layer_and_drifts_for_gelu_and_swish(act_init, depth):
    forward, _ = _moments("variance_preserving", act_init)
    assert _within(forward[:depth]), forward
    assert _within(forward / torch.cat([torch.ones(1), forward[:-1]])), forward


def test_centered_weights_pass_no_mean_on_whatever_the_groups():
    torch.manual_seed(0)
    layer = kat.GRKANLinear(64, 4096, num_groups=2, share="none", weight_init="centered")
    with torch.no_grad():
        layer.act.weight_numerator[1] = torch.tensor([2.0, 0.5, 0, 0, 0, 0])
    layer.init_weights()
    mean, variance = (m.repeat_interleave(32) for m in moments(layer.act.functions))
    assert (layer.fc.weight.double() @ mean).abs().max() < 1e-5
    second = (layer.fc.weight.double().square() @ variance).mean()
    assert second.item() == pytest.approx(1, rel=0.03)


@pytest.mark.slow
def test_published_init_collapses_the_second_moment():
    forward, _ = _moments("trunc_normal", "swish")
    assert forward[-1] < 1e-6


def test_init_follows_the_coefficients_held():
    act = kat.GroupRational(init="identity")
    with torch.no_grad():
        act.weight_numerator.mul_(10)
    linear = nn.Linear(512, 512)
    init_grkan_(linear, act, "variance_preserving")
    assert linear.weight.std().item() == pytest.approx(512**-0.5 / 10, rel=0.02)


def test_unknown_scheme_is_named():
    with pytest.raises(ValueError, match=r"scheme must be one of .*, got 'xavier'"):
        kat.GRKANLinear(16, 16, weight_init="xavier")


def test_groups_that_do_not_divide_are_named():
    message = "hidden_features=100 is not divisible by num_groups=8, but by 1, 2, 4, 5, 10, 20, 25,"
    with pytest.raises(ValueError, match=message):
        kat.GRKANMlp(16, 100)


@pytest.mark.parametrize(
    "make", [kat.GRKANMlp, partial(kat.GatedGRKANMlp, align_to=1), kat.GRKANLinear]
)
def test_groups_chosen_for_each_width(make):
    layer = make(12, 35, num_groups="auto")
    groups = [act.num_groups for act in kat.nn.rationals(layer).values()]
    assert groups == {kat.GRKANMlp: [6, 7], kat.GRKANLinear: [6]}.get(make, [7])
    assert layer(torch.randn(2, 12)).isfinite().all()


def test_mimetic_attention_has_the_intended_products():
    torch.manual_seed(0)
    dim, heads = 192, 3
    qkv, proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
    init_attention_mimetic_(qkv, proj, heads)
    query, key, value = qkv.weight.view(3, dim, dim)
    product = proj.weight @ value
    off = product - torch.diag(product.diag())
    assert product.diag().mean().item() == pytest.approx(-0.4, abs=0.02)
    assert off.std().item() == pytest.approx(0.4 / dim**0.5, rel=0.05)
    rank = dim // heads
    for head in range(heads):
        rows = slice(head * rank, (head + 1) * rank)
        logits = query[rows].T @ key[rows]
        assert torch.linalg.matrix_rank(logits) == rank
        singular = torch.linalg.svdvals(logits)[:rank]
        torch.testing.assert_close(query[rows].square().sum(1), singular, rtol=1e-3, atol=1e-4)
        assert logits.diag().mean() > 0.2
