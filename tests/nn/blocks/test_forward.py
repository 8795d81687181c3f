"""GR-KAN layers in blocks of rows: the values of the modules, one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kat
from kat.nn.blocks import passes, sizes
from tests.nn.blocks.mlps import OPTIONS, ROWS, each_keep, make_mlp, note_call, one_by_one


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [*OPTIONS, {"num_groups": "channels"}])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (2, 3, 4, 16), (ROWS, 16), (0, 16), (2, 0, 16)])
@torch.no_grad()
def test_an_mlp_in_blocks_gives_what_its_modules_give(spaces, dtype, options, shape):
    mlp, x = make_mlp(dtype=dtype, **options), torch.randn(shape, dtype=dtype)
    expected, before = one_by_one(mlp, x), x.clone()
    spaces.clear()
    y = mlp(x)
    assert y.dtype == dtype
    assert y.shape == (*shape[:-1], 24)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)
    rows = x[..., 0].numel()
    rationals = 1 if "first_init" in options else 2
    assert sum(spaces) == rationals * rows
    assert max(spaces, default=0) <= ROWS


@each_keep
@pytest.mark.parametrize("recorded", [False, True])
def test_values_whose_powers_overflow_give_what_the_modules_give(keep, recorded):
    mlp = make_mlp(keep=keep)
    x = torch.randn(12, 16) * torch.logspace(0, 12, 12)[:, None]
    x.requires_grad_(recorded)
    with torch.set_grad_enabled(recorded):
        y, expected = mlp(x), one_by_one(mlp, x)
    torch.testing.assert_close(y, expected)
    assert y.abs().max() > 1e9
    if recorded:
        (dx,), (expected_dx,) = (torch.autograd.grad(each.sum(), x) for each in (y, expected))
        torch.testing.assert_close(dx, expected_dx)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_under_autocast(spaces, dtype):
    mlp, x = make_mlp(), torch.randn(3, 7, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = one_by_one(mlp, x)
        spaces.clear()
        y = mlp(x)
    assert spaces
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)


@torch.no_grad()
def test_a_linear_layer_alone_and_strided_inputs(spaces):
    layer = kat.GRKANLinear(16, 12, init="gelu").eval()
    for x in (
        torch.randn(16, 9).T,
        torch.randn(2, 16, 3, 3).permute(0, 2, 3, 1),
        torch.randn(9, 32)[:, ::2],
    ):
        expected = layer.fc(layer.act(x))
        spaces.clear()
        torch.testing.assert_close(layer(x), expected)
        assert sum(spaces) == x[..., 0].numel()


class Derived(nn.Linear):
    pass


def _derive(mlp):
    mlp.fc1.__class__ = Derived


@pytest.mark.parametrize(
    "change",
    [
        lambda mlp: mlp.act1.register_forward_hook(note_call),
        lambda mlp: mlp.act2.register_forward_pre_hook(note_call),
        lambda mlp: mlp.fc2.register_forward_hook(note_call),
        lambda mlp: mlp.drop1.register_forward_hook(note_call),
        lambda mlp: mlp.norm.register_forward_hook(note_call),
        lambda mlp: setattr(mlp.fc1, "forward", mlp.fc1.forward),
        lambda mlp: setattr(mlp.act2, "impl", "reference"),
        lambda mlp: setattr(mlp, "norm", nn.LayerNorm(32)),
        lambda mlp: mlp.train() and setattr(mlp.drop2, "p", 0.5),
        _derive,
    ],
)
@torch.no_grad()
def test_whatever_is_more_than_its_formula_is_called(spaces, change):
    mlp = make_mlp()
    change(mlp)
    hooked = [m for m in mlp.modules() if m._forward_hooks or m._forward_pre_hooks]
    mlp(torch.randn(ROWS + 1, 16))
    assert all(module.called for module in hooked)
    assert spaces.count(ROWS) + spaces.count(1) < 4


@torch.no_grad()
def test_transforms_and_profilers_see_the_modules(monkeypatch):
    mlp, x = make_mlp(), torch.randn(7, 16)
    monkeypatch.setattr(passes, "forward", None)
    torch.func.vmap(mlp)(x)
    with torch.profiler.profile() as profile:
        mlp(x)
    assert "kat::rational" in {event.key for event in profile.key_averages()}


@torch.no_grad()
def test_inputs_that_do_not_fit_are_refused_as_by_the_modules():
    with pytest.raises((RuntimeError, ValueError)):
        make_mlp()(torch.randn(7, 24))
    with pytest.raises(RuntimeError):
        make_mlp()(torch.randn(7, 16, dtype=torch.float64))


@torch.no_grad()
def test_layers_that_stay_in_the_caches_by_themselves_do_not_run_in_blocks(monkeypatch):
    monkeypatch.setattr(sizes, "least_bytes", lambda: 7 * 32 * 4)
    mlp, calls, own = make_mlp(), [], passes.forward
    monkeypatch.setattr(passes, "forward", lambda *i, **named: calls.append(i) or own(*i, **named))
    for rows in (6, 7):
        x = torch.randn(rows, 16)
        torch.testing.assert_close(mlp(x), one_by_one(mlp, x))
        assert len(calls) == rows - 6
    monkeypatch.undo()
    assert sizes.least_bytes() == sizes.second_level_cache() * torch.get_num_threads()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 16), (2, 9, 16)])
@pytest.mark.parametrize("layer", [kat.GRKANMlp, kat.GRKANLinear])
def test_an_output_may_be_changed_in_place(dtype, shape, layer):
    module, x = layer(16, 16, dtype=dtype), torch.randn(shape, dtype=dtype, requires_grad=True)
    y = module(x)
    y += 1
    y.sum().backward()
    assert x.grad is not None


@torch.no_grad()
def test_autocast_leaves_float64_alone(spaces):
    mlp, x = make_mlp(dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = mlp(x)
        assert spaces
        torch.testing.assert_close(y, one_by_one(mlp, x))
        with pytest.raises(RuntimeError):
            make_mlp(first_init="none")(x)


def test_a_model_that_keeps_its_input_is_exported():
    mlp, x = make_mlp(keep="input"), torch.randn(7, 16)
    program = torch.export.export(mlp, (x,), strict=True)
    torch.testing.assert_close(program.module()(x), mlp(x))
