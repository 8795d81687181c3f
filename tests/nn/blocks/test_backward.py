"""GR-KAN layers in blocks of rows: gradients, and what is kept for them."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import kat
from tests.nn.blocks.mlps import OPTIONS, ROWS, each_keep, make_mlp, note_call
from tests.nn.saved import saved_bytes


def _gradients(mlp, x, grad, autocast=False):
    """Output and gradients of what needs them."""
    for parameter in mlp.parameters():
        parameter.grad = None
    x = x.detach().requires_grad_(x.requires_grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = mlp(x)
    y.backward(grad.to(y.dtype))
    return [y, x.grad, *(parameter.grad for parameter in mlp.parameters())]


def _by_modules(mlp):
    plain = copy.deepcopy(mlp)
    plain.keep = "all"
    return plain


@each_keep
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_as_close_to_float64_as_those_of_the_modules(spaces, keep, dtype, options):
    mlp = make_mlp(dtype=dtype, keep=keep, **options).train()
    x, grad = (
        torch.randn(3, 9, 16, dtype=dtype, requires_grad=True),
        torch.randn(3, 9, 24).to(dtype),
    )
    plain = _by_modules(mlp)
    oracle = _gradients(copy.deepcopy(plain).double(), x.double(), grad.double())
    expected = _gradients(plain, x, grad)
    spaces.clear()
    exact = dtype == torch.float64  # then the oracle is the modules themselves
    for ours, theirs, true in zip(_gradients(mlp, x, grad), expected, oracle, strict=True):
        assert ours.dtype == dtype
        least = (64 if exact else 1) * torch.finfo(dtype).eps * true.abs().max()
        allowed = 2 * (theirs - true).abs().max() + least
        assert (ours - true).abs().max() <= allowed
    assert (ROWS in spaces) == (dtype in (torch.float32, torch.float64))


@each_keep
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_under_autocast_are_those_of_whole_layers(spaces, keep, dtype):
    mlp, x = make_mlp(keep=keep), torch.randn(3, 9, 16, dtype=dtype, requires_grad=True)
    grad = torch.randn(3, 9, 24)
    expected = _gradients(_by_modules(mlp), x, grad, autocast=True)
    spaces.clear()
    found = _gradients(mlp, x, grad, autocast=True)
    assert ROWS not in spaces
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * scale)


@each_keep
@pytest.mark.parametrize(
    ("first_init", "trained"),
    [
        *itertools.product(
            ["identity", "none"],
            ["x", "fc1.weight", "fc1.bias", "act2.weight_num", "act2.weight_den", "fc2", "fc"],
        ),
        ("identity", "act1"),
    ],
)
def test_what_is_frozen_gets_no_gradient(keep, first_init, trained):
    mlp = make_mlp(keep=keep, first_init=first_init)
    for name, parameter in mlp.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    x, grad = torch.randn(12, 16, requires_grad=trained == "x"), torch.randn(12, 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    torch.testing.assert_close(_gradients(mlp, x, grad), expected)


@each_keep
@pytest.mark.parametrize("frozen", ["", "act1", "fc2", "x"])
def test_second_derivatives_and_batches_of_gradients(keep, frozen):
    mlp = make_mlp(keep=keep, dtype=torch.float64)
    for name, parameter in mlp.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(frozen)))
    x = torch.randn(7, 16, dtype=torch.float64, requires_grad=frozen != "x")
    found = []
    for module in (mlp, _by_modules(mlp)):
        inputs = [t for t in (x, *module.parameters()) if t.requires_grad]
        first = torch.autograd.grad(module(x).sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        y = module(x)
        batch = torch.stack([torch.ones_like(y), y.detach()])
        batched = torch.autograd.grad(y, inputs, batch, is_grads_batched=True)
        found.append([*first, *second, *batched])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", [(0, 16), (2, 0, 16), (16,)])
def test_gradients_of_no_rows_are_zero_and_of_one_row_right(shape):
    mlp, x = make_mlp(), torch.randn(shape, requires_grad=True)
    grad = torch.randn(*shape[:-1], 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    torch.testing.assert_close(_gradients(mlp, x, grad), expected)


@pytest.mark.parametrize("by_modules", [False, True])
def test_the_input_alone_is_kept(by_modules):
    x = torch.randn(64, 16, requires_grad=True)
    for keep, times in (("input", 1), ("hidden", 3)):  # the hidden layer is twice as wide
        mlp = make_mlp(keep=keep)
        if by_modules:
            mlp.act2.register_forward_hook(note_call)
        assert saved_bytes(mlp, x) == times * x.nbytes


@pytest.mark.parametrize(
    "change",
    [
        lambda mlp: None,
        lambda mlp: setattr(mlp, "norm", nn.LayerNorm(32)),
        lambda mlp: setattr(mlp.drop1, "p", 0.5),
        lambda mlp: mlp.act2.register_forward_hook(note_call),
        lambda mlp: setattr(mlp, "keep", "all"),
    ],
)
def test_gradients_do_not_depend_on_what_is_kept(change):
    found = []
    for keep in ("hidden", "input"):
        mlp = make_mlp(keep=keep).train()
        change(mlp)
        x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        torch.manual_seed(2)  # for dropout
        found.append(_gradients(mlp, x, torch.ones(9, 24)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("by_modules", [False, True])
def test_what_is_kept_works_under_transforms_and_in_compiled_code(by_modules):
    mlp, x = make_mlp(keep="input", dtype=torch.float64), torch.randn(5, 16, dtype=torch.float64)
    if by_modules:
        mlp.act2.register_forward_hook(note_call)
    parameters = dict(mlp.named_parameters())

    def loss(values, x):
        return torch.func.functional_call(mlp, values, (x,)).square().mean()

    expected = torch.autograd.grad(loss(parameters, x), parameters.values())
    found = torch.func.grad(loss)(parameters, x)
    torch.testing.assert_close([*found.values()], expected)
    torch._dynamo.reset()
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).square().mean(), parameters.values())
    torch.testing.assert_close(found, expected)


def test_an_unknown_choice_of_what_is_kept_is_named():
    with pytest.raises(ValueError, match=r"keep must be one of .*, got 'x'"):
        kat.GRKANMlp(16, keep="x")


def test_gradients_are_the_same_bits_each_time():
    mlp, x, grad = make_mlp(), torch.randn(64, 16, requires_grad=True), torch.randn(64, 24)
    first, second = _gradients(mlp, x, grad), _gradients(mlp, x, grad)
    assert all(map(torch.equal, first, second))


@each_keep
def test_kept_tensors_may_come_back_strided(keep):
    mlp, x, grad = make_mlp(keep=keep), torch.randn(12, 16, requires_grad=True), torch.randn(12, 24)
    expected = _gradients(mlp, x, grad)

    def strided(tensor):
        return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, strided):
        found = _gradients(mlp, x, grad)
    torch.testing.assert_close(found, expected)


def test_a_frozen_model_keeps_nothing(monkeypatch):
    mlp = make_mlp().requires_grad_(False)
    monkeypatch.setattr("kat.nn.blocks.execution._Blocks", None)
    assert not mlp(torch.randn(7, 16)).requires_grad
    assert mlp.to(torch.bfloat16)(torch.randn(7, 16).bfloat16()).dtype == torch.bfloat16


def test_gradients_of_coefficients_in_bfloat16_are_added_up_in_float32():
    mlp = make_mlp()
    for act in (mlp.act1, mlp.act2):
        act.to(torch.bfloat16)
    x, grad = torch.randn(600, 16, requires_grad=True), torch.randn(600, 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    for ours, theirs in zip(_gradients(mlp, x, grad), expected, strict=True):
        assert ours.dtype == theirs.dtype
        rtol = 0.01 if ours.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-3)


def test_a_bias_may_change_between_forward_and_backward():
    mlp, x = make_mlp(), torch.randn(7, 16, requires_grad=True)
    y = mlp(x)
    with torch.no_grad():
        mlp.fc2.bias.zero_()
    y.sum().backward()
    assert x.grad is not None
