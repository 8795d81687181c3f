"""GR-KAN layers in blocks of rows: the numbers of the modules, one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kat
from kat.nn import blocks, register_grkan_hook

ROWS = 5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "block_rows", lambda width, itemsize: ROWS)


@pytest.fixture
def spaces(monkeypatch):
    """The numbers of rows of which F(x) is computed in blocks."""
    seen, into = [], blocks.cpu.forward_into

    def count(y, x, *arguments):
        seen.append(len(x))
        into(y, x, *arguments)

    monkeypatch.setattr(blocks.cpu, "forward_into", count)
    return seen


def _mlp(**options):
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(16, 32, 24, **options).eval()
    with torch.no_grad():
        for name, parameter in mlp.named_parameters():
            if "weight_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return mlp


def _one_by_one(mlp, x):
    return mlp.fc2(mlp.act2(mlp.fc1(mlp.act1(x))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"form": "B", "share": "none", "degree": (4, 3)},
        {"bias": False, "share": "denominator"},
        {"first_init": "none"},
        {"num_groups": "channels"},
    ],
)
@pytest.mark.parametrize("shape", [(16,), (1, 16), (2, 3, 4, 16), (ROWS, 16), (0, 16), (2, 0, 16)])
@torch.no_grad()
def test_an_mlp_in_blocks_gives_what_its_modules_give(spaces, dtype, options, shape):
    mlp, x = _mlp(dtype=dtype, **options), torch.randn(shape, dtype=dtype)
    expected, before = _one_by_one(mlp, x), x.clone()
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_under_autocast(spaces, dtype):
    mlp, x = _mlp(), torch.randn(3, 7, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = _one_by_one(mlp, x)
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


def _hook(module, *rest):
    module.called = True


class Derived(nn.Linear):
    pass


def _derive(mlp):
    mlp.fc1.__class__ = Derived


@pytest.mark.parametrize(
    "change",
    [
        lambda mlp: mlp.act1.register_forward_hook(_hook),
        lambda mlp: mlp.act2.register_forward_pre_hook(_hook),
        lambda mlp: mlp.fc2.register_forward_hook(_hook),
        lambda mlp: mlp.drop1.register_forward_hook(_hook),
        lambda mlp: mlp.norm.register_forward_hook(_hook),
        lambda mlp: setattr(mlp.fc1, "forward", mlp.fc1.forward),
        lambda mlp: setattr(mlp.act2, "impl", "reference"),
        lambda mlp: setattr(mlp, "norm", nn.LayerNorm(32)),
        lambda mlp: mlp.train() and setattr(mlp.drop2, "p", 0.5),
        lambda mlp: setattr(mlp, "fused", False),
        _derive,
    ],
)
@torch.no_grad()
def test_whatever_is_more_than_its_formula_is_called(spaces, change):
    mlp = _mlp()
    change(mlp)
    hooked = [m for m in mlp.modules() if m._forward_hooks or m._forward_pre_hooks]
    mlp(torch.randn(ROWS + 1, 16))
    assert all(module.called for module in hooked)
    assert spaces.count(ROWS) + spaces.count(1) < 4


@torch.no_grad()
def test_hooks_on_all_layers_see_each_layer(spaces):
    seen = []
    handle = register_grkan_hook(lambda activation, linear, x, y: seen.append((x.shape, y.shape)))
    try:
        _mlp()(torch.randn(7, 16))
    finally:
        handle.remove()
    assert seen == [((7, 16), (7, 32)), ((7, 32), (7, 24))]


def test_gradients_and_transforms_do_not_pass_through_blocks(monkeypatch):
    mlp, x = _mlp(), torch.randn(7, 16, requires_grad=True)
    monkeypatch.setattr("kat.nn.grkan.run_in_blocks", None)
    monkeypatch.setattr("kat.nn.fused.run_in_blocks", None)
    mlp(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.func.vmap(mlp)(x.detach())
        with torch.profiler.profile() as profile:
            mlp(x)
    assert "kat::rational" in {event.key for event in profile.key_averages()}


@torch.no_grad()
def test_a_compiled_layer_is_one_graph():
    mlp, x = _mlp(), torch.randn(7, 16)
    torch._dynamo.reset()
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), _one_by_one(mlp, x))


@torch.no_grad()
def test_inputs_that_do_not_fit_are_refused_as_by_the_modules():
    with pytest.raises((RuntimeError, ValueError)):
        _mlp()(torch.randn(7, 24))
    with pytest.raises(RuntimeError):
        _mlp()(torch.randn(7, 16, dtype=torch.float64))


def test_blocks_fill_half_of_the_second_level_caches(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(blocks, "second_level_cache", lambda: 1 << 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert blocks.block_rows(1024, 4) == 512
    assert blocks.block_rows(1 << 20, 8) == 32


@pytest.mark.parametrize(("text", "size"), [("2048K\n", 1 << 21), ("", 1 << 20), (None, 1 << 20)])
def test_the_size_of_a_cache_is_what_linux_tells(tmp_path, monkeypatch, text, size):
    path = tmp_path / "size"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(blocks, "_LEVEL_2", path)
    blocks.second_level_cache.cache_clear()
    assert blocks.second_level_cache() == size
    blocks.second_level_cache.cache_clear()
