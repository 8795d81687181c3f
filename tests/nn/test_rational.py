"""GroupRational: layouts, sharing, presets through the operator, gains."""

from __future__ import annotations

import json
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import kat
from kat.compat import KAT_Group
from kat.errors import InputError
from kat.nn import Coefficients, gain, preset, preset_names
from kat.nn.fitting import FUNCTIONS, fit
from tests.marks import both_forms


@both_forms
@pytest.mark.parametrize("name", preset_names())
def test_preset_through_the_operator_is_the_function_to_its_recorded_error(name, form):
    c = preset(name, (5, 4), form)
    x = torch.linspace(*c.interval, 30011, dtype=torch.float64)[:, None]
    numerator, denominator = (
        torch.tensor([row], dtype=torch.float64) for row in (c.numerator, c.denominator)
    )
    y = kat.rational(x, numerator, denominator, form=form)
    function = FUNCTIONS[
        name.removesuffix("_narrow").removesuffix("_wide").replace("swish", "silu")
    ]
    error = np.abs(y.numpy() - function(x.numpy())).max()
    assert error == pytest.approx(c.max_error, rel=1e-3, abs=1e-12)


def _exact_gain(function) -> float:
    def integrand(x):
        return function(x) ** 2 * mpmath.npdf(x)

    return float(1 / mpmath.quad(integrand, [-12, -6, -3, -1, 0, 1, 3, 6, 12]))


EXACT_GAINS = {
    "identity": _exact_gain(lambda x: x),
    "relu": _exact_gain(lambda x: max(x, 0)),
    "gelu": _exact_gain(lambda x: x * mpmath.ncdf(x)),
    "tanh": _exact_gain(mpmath.tanh),
    "silu": _exact_gain(lambda x: x / (1 + mpmath.exp(-x))),
}


@pytest.mark.parametrize("name", EXACT_GAINS)
def test_gain_by_quadrature(name):
    function = getattr(functional, name, lambda x: x)
    assert gain(function) == pytest.approx(EXACT_GAINS[name], rel=1e-10)


@pytest.mark.parametrize("name", EXACT_GAINS)
def test_gain_of_a_layer_comes_from_its_coefficients(name):
    layer = kat.GroupRational(init=name)
    assert layer.gain() == pytest.approx(EXACT_GAINS[name], rel=5e-3)
    with torch.no_grad():
        layer.weight_numerator.mul_(2)
    assert layer.gain() == pytest.approx(EXACT_GAINS[name] / 4, rel=5e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loop_that_watches_the_gain_outlives_a_coefficient_that_is_not_finite(value):
    layer = kat.GroupRational()
    with torch.no_grad():
        layer.weight_denominator[3, 1] = value
    assert math.isnan(layer.gain())
    with pytest.raises(InputError, match="not finite"):  # of a function that is to start a layer
        gain(lambda x: x * value)


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
def test_channel_dim_1_equals_channels_last(share):
    torch.manual_seed(0)
    last = kat.GroupRational(4, share=share, channel_dim=-1)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    first = kat.GroupRational(4, share=share, channel_dim=1)
    first.load_state_dict(last.state_dict())
    x = torch.randn(2, 8, 5, 3)
    torch.testing.assert_close(first(x), last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    torch.testing.assert_close(first(x, x.cos()), first(x) * x.cos())  # as in a gate


def test_images_need_the_dimension_of_the_channels():
    act, images = kat.GroupRational(8), torch.randn(2, 8, 4, 16)
    assert torch.equal(act(images[0]), kat.GroupRational(8, channel_dim=-1)(images)[0])
    model = timm.create_model("resnet18", act_layer=partial(kat.GroupRational, 8))
    calls = [
        lambda: act(images),
        lambda: torch.compile(act, backend="eager")(images),
        lambda: kat.deploy.FrozenRational(act)(images),
        lambda: model(torch.randn(1, 3, 256, 256)),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"channel_dim=1 for \(B, C, .* channel_dim=-1 for"):
            call()


@pytest.mark.parametrize("layer", [
    kat.GRKANLinear(16, 4), kat.GRKANMlp(16), kat.GatedGRKANMlp(16), KAT_Group(),
])  # fmt: skip
def test_layers_take_images_with_their_channels_last(layer):
    images = torch.randn(2, 3, 5, 16)
    torch.testing.assert_close(layer(images).flatten(0, 2), layer(images.flatten(0, 2)))


def test_coefficients_object_as_init():
    c = Coefficients((0.0, 2.0), (1.0,), "A", (-1.0, 1.0), 0.0)
    layer = kat.GroupRational(2, degree=(1, 1), init=c)
    assert layer(torch.tensor([1.0, 3.0])).tolist() == [1.0, 1.5]
    with pytest.raises(
        InputError, match=r"init has degree \(1, 1\) .* build it with degree=\(1, 1\)"
    ):
        kat.GroupRational(2, init=c)
    with pytest.raises(InputError, match=r"init has degree .* and form A, .* form B; build"):
        kat.GroupRational(2, degree=(1, 1), init=c, form="B")


FUNCTIONS_AS_INIT = {
    "gelu": [functional.gelu, nn.GELU(), nn.GELU],
    "gelu_tanh": [nn.GELU("tanh"), lambda x: functional.gelu(x, approximate="tanh")],
    "relu": [nn.ReLU(inplace=True), torch.relu],
    "silu": [functional.silu],
    "tanh": [torch.tanh, nn.Tanh],
    "identity": [nn.Identity()],
}


@both_forms
@pytest.mark.parametrize(
    ("name", "function"), [(name, f) for name, all_ in FUNCTIONS_AS_INIT.items() for f in all_]
)
def test_a_function_as_init_is_its_preset(name, function, form):
    mlp = kat.GRKANMlp(16, 64, act_init=function, form=form)
    assert mlp.act2.init == name
    assert torch.equal(mlp.act2(X), kat.GroupRational(init=name, form=form)(X))


X = torch.linspace(-3, 3, 64)


def test_any_other_function_as_init_is_fitted():
    act = kat.GroupRational(init=functional.hardswish, degree=(4, 2), form="B")
    torch.testing.assert_close(act(X), functional.hardswish(X), atol=2e-2, rtol=0)
    slopes = nn.PReLU(init=0.1)
    torch.testing.assert_close(kat.GroupRational(init=slopes)(X), slopes(X), atol=2e-2, rtol=0)
    fitted = fit("tanh", (3, 2))
    assert kat.GroupRational(init=fitted, degree=(3, 2)).init == fitted.coefficients


@both_forms
def test_the_coefficients_of_a_trained_layer_start_another(form):
    trained = kat.GroupRational(4, form=form)
    assert torch.equal(kat.GroupRational(4, init=trained.coefficients(), form=form)(X), trained(X))
    with torch.no_grad():
        trained.weight_denominator.add_(torch.rand(4, 4))
    with pytest.raises(InputError, match=r"different functions: name one, as in coefficients\(0\)"):
        trained.coefficients()
    for group in range(4):
        copy = kat.GroupRational(1, init=trained.coefficients(group), form=form)
        assert torch.equal(copy(X).view(4, 16)[group], trained(X).view(4, 16)[group])


def test_a_function_of_ones_own_needs_numerator_and_denominator_alone():
    square = {"numerator": [0, 0, 1, 0, 0, 0], "denominator": [0, 0, 0, 0]}
    for init in (square, Coefficients(**{name: tuple(row) for name, row in square.items()})):
        assert torch.equal(kat.GroupRational(init=init)(X), X**2)


@pytest.mark.parametrize("layer", [
    kat.GroupRational(), kat.GRKANMlp(16), kat.GatedGRKANMlp(16), kat.nn.BSplineKANMlp(4, 4),
    nn.Sequential(kat.GRKANLinear(8, 8)),
])  # fmt: skip
def test_torch_says_what_to_use_in_place_of_scripting(layer):
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script .* use torch\.export"):
        torch.jit.script(layer)


@pytest.mark.parametrize("values", [np.ones((2, 8), np.float32), [[1.0] * 8]])
@pytest.mark.parametrize("layer", [
    kat.GroupRational(), kat.GroupRational(num_channels=8), kat.GRKANLinear(8, 2), kat.GRKANMlp(8),
])  # fmt: skip
def test_what_is_no_tensor_is_named(layer, values):
    with pytest.raises(TypeError, match=r"x must be a tensor, got (ndarray|list): .*as_tensor"):
        layer(values)


@pytest.fixture
def file(tmp_path):
    """A file of coefficients, with more in it than is needed."""
    path = tmp_path / "fitted.json"
    path.write_text(json.dumps(CONTENT))
    return path


CONTENT = {
    "function": "2x / (1 + |x|)",
    "numerator": [0.0, 2.0],
    "denominator": [1.0],
    "form": "A",
    "interval": [-1, 1],
    "max_error": 0.0,
    "tags": ["mine"],
}


@pytest.mark.parametrize("build", [
    lambda init: kat.GroupRational(2, degree=(1, 1), init=init),
    lambda init: kat.GRKANLinear(4, 2, num_groups=2, init=init, degree=(1, 1)).act,
    lambda init: kat.GRKANMlp(4, num_groups=2, act_init=init, degree=(1, 1)).act2,
    lambda init: timm.create_model("kat_micro", act_init=init, degree=(1, 1)).blocks[3].mlp.act2,
])  # fmt: skip
def test_a_file_as_init_everywhere(file, build):
    for init in (str(file), json.loads(file.read_text()), kat.nn.read_coefficients(file)):
        act = build(init)
        assert act.weight_numerator.tolist()[0] == [0.0, 2.0]
        assert act.weight_denominator.tolist()[-1] == [1.0]


def test_a_file_is_read_once(file):
    layer = kat.GroupRational(2, degree=(1, 1), init=str(file))
    file.unlink()
    with torch.no_grad():
        layer.weight_numerator.zero_()
    layer.reset_parameters()
    assert layer(torch.tensor([1.0, 3.0])).tolist() == [1.0, 1.5]
    assert "2.0" in repr(layer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"fitted\.json does not exist"),
        ("{}", r"fitted\.json does not hold .* KeyError: 'numerator'"),
        (json.dumps(CONTENT | {"denominator": [math.nan]}), "must be finite"),
    ],
)
def test_files_of_something_else_are_named(file, content, message):
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        kat.GroupRational(2, degree=(1, 1), init=str(file))


def test_identity_denominators_train():
    """With autograd's |b|' = 0 at b = 0 they would stay at zero for ever."""
    layer = kat.GroupRational(2, init="identity")
    layer(torch.randn(16, 8)).square().sum().backward()
    assert (layer.weight_denominator.grad != 0).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"form": "C"}, "form must be one of"),
        ({"share": "all"}, "share must be one of"),
        ({"init": "gelo"}, "unknown function 'gelo'; did you mean 'gelu'"),
        ({"init": "GELU"}, "unknown function 'GELU'; did you mean 'gelu'"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        kat.GroupRational(**kwargs)


def test_timm_builds_it_as_any_activation():
    act = timm.layers.create_act_layer(kat.GroupRational, inplace=True, num_groups=2)
    assert act.num_groups == 2


def test_channels_that_do_not_divide_are_named():
    with pytest.raises(
        InputError, match="num_channels=10 is not divisible by num_groups=8, but by 1"
    ):
        kat.GroupRational(8, num_channels=10)
    with pytest.raises(ValueError, match="num_groups=8, but by 1, 2, 5, 10"):
        kat.GroupRational(8)(torch.zeros(2, 10))
