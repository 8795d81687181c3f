"""GR-KAN layers in blocks of rows: the numbers of the modules, one after the other."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import kat
from kat.nn import blocks, register_grkan_hook
from tests.nn.saved import saved_bytes

ROWS = 5
OPTIONS = [
    {},
    {"form": "B", "share": "none", "degree": (4, 3)},
    {"bias": False, "share": "denominator"},
    {"first_init": "none"},
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "block_rows", lambda row_bytes: ROWS)
    monkeypatch.setattr(blocks, "least_bytes", lambda: 0)


@pytest.fixture
def spaces(monkeypatch):
    """The numbers of rows of which F(x) alone is computed in blocks."""
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
@pytest.mark.parametrize("options", [*OPTIONS, {"num_groups": "channels"}])
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


@pytest.mark.parametrize("keep", ["hidden", "input"])
@pytest.mark.parametrize("recorded", [False, True])
def test_values_whose_powers_overflow_give_what_the_modules_give(keep, recorded):
    mlp = _mlp(keep=keep)
    x = torch.randn(12, 16) * torch.logspace(0, 12, 12)[:, None]
    x.requires_grad_(recorded)
    with torch.set_grad_enabled(recorded):
        y, expected = mlp(x), _one_by_one(mlp, x)
    torch.testing.assert_close(y, expected)
    assert y.abs().max() > 1e9
    if recorded:
        (dx,), (expected_dx,) = (torch.autograd.grad(each.sum(), x) for each in (y, expected))
        torch.testing.assert_close(dx, expected_dx)


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


@torch.no_grad()
def test_transforms_and_profilers_see_the_modules(monkeypatch):
    mlp, x = _mlp(), torch.randn(7, 16)
    monkeypatch.setattr("kat.nn.grkan.run_in_blocks", None)
    monkeypatch.setattr("kat.nn.fused.run_in_blocks", None)
    torch.func.vmap(mlp)(x)
    with torch.profiler.profile() as profile:
        mlp(x)
    assert "kat::rational" in {event.key for event in profile.key_averages()}


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
    plain.fused, plain.keep = False, "hidden"
    return plain


@pytest.mark.parametrize("keep", ["hidden", "input"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_as_close_to_float64_as_those_of_the_modules(spaces, keep, dtype, options):
    mlp = _mlp(dtype=dtype, keep=keep, **options).train()
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


@pytest.mark.parametrize("keep", ["hidden", "input"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_under_autocast_are_those_of_whole_layers(spaces, keep, dtype):
    mlp, x = _mlp(keep=keep), torch.randn(3, 9, 16, dtype=dtype, requires_grad=True)
    grad = torch.randn(3, 9, 24)
    expected = _gradients(_by_modules(mlp), x, grad, autocast=True)
    spaces.clear()
    found = _gradients(mlp, x, grad, autocast=True)
    assert ROWS not in spaces
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize("keep", ["hidden", "input"])
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
    mlp = _mlp(keep=keep, first_init=first_init)
    for name, parameter in mlp.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    x, grad = torch.randn(12, 16, requires_grad=trained == "x"), torch.randn(12, 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    for ours, theirs in zip(_gradients(mlp, x, grad), expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("keep", ["hidden", "input"])
@pytest.mark.parametrize("frozen", ["", "act1", "fc2", "x"])
def test_second_derivatives_and_batches_of_gradients(keep, frozen):
    mlp = _mlp(keep=keep, dtype=torch.float64)
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
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 16), (2, 0, 16), (16,)])
def test_gradients_of_no_rows_are_zero_and_of_one_row_right(shape):
    mlp, x = _mlp(), torch.randn(shape, requires_grad=True)
    grad = torch.randn(*shape[:-1], 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    for ours, theirs in zip(_gradients(mlp, x, grad), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("fused", [True, False])
def test_the_input_alone_is_kept(fused):
    x = torch.randn(64, 16, requires_grad=True)
    assert saved_bytes(_mlp(keep="input", fused=fused), x) == x.nbytes
    assert saved_bytes(_mlp(), x) == 3 * x.nbytes  # the hidden layer is twice as wide


@pytest.mark.parametrize(
    "change",
    [
        lambda mlp: None,
        lambda mlp: setattr(mlp, "norm", nn.LayerNorm(32)),
        lambda mlp: setattr(mlp.drop1, "p", 0.5),
        lambda mlp: mlp.act2.register_forward_hook(_hook),
        lambda mlp: setattr(mlp, "fused", False),
    ],
)
def test_gradients_do_not_depend_on_what_is_kept(change):
    found = []
    for keep in ("hidden", "input"):
        mlp = _mlp(keep=keep).train()
        change(mlp)
        x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        torch.manual_seed(2)  # for dropout
        found.append(_gradients(mlp, x, torch.ones(9, 24)))
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


def test_what_is_kept_works_under_transforms_and_in_compiled_code():
    mlp, x = _mlp(keep="input", dtype=torch.float64), torch.randn(5, 16, dtype=torch.float64)
    parameters = dict(mlp.named_parameters())

    def loss(values, x):
        return torch.func.functional_call(mlp, values, (x,)).square().mean()

    expected = torch.autograd.grad(loss(parameters, x), parameters.values())
    for ours, theirs in zip(torch.func.grad(loss)(parameters, x).values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch._dynamo.reset()
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).square().mean(), parameters.values())
    torch.testing.assert_close(found, expected)


def test_an_unknown_choice_of_what_is_kept_is_named():
    with pytest.raises(ValueError, match=r"keep must be one of \('hidden', 'input'\), got 'x'"):
        kat.GRKANMlp(16, keep="x")


def test_gradients_are_the_same_bits_each_time():
    mlp, x, grad = _mlp(), torch.randn(64, 16, requires_grad=True), torch.randn(64, 24)
    first, second = _gradients(mlp, x, grad), _gradients(mlp, x, grad)
    assert all(map(torch.equal, first, second))


@torch.no_grad()
def test_inputs_that_do_not_fit_are_refused_as_by_the_modules():
    with pytest.raises((RuntimeError, ValueError)):
        _mlp()(torch.randn(7, 24))
    with pytest.raises(RuntimeError):
        _mlp()(torch.randn(7, 16, dtype=torch.float64))


def test_blocks_fill_twice_the_second_level_caches_up_to_a_limit(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(blocks, "second_level_cache", lambda: 1 << 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert blocks.block_rows(4096) == 2048
    assert blocks.block_rows(1 << 23) == 32
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert blocks.block_rows(4096) == 4096


@torch.no_grad()
def test_layers_that_stay_in_the_caches_by_themselves_do_not_run_in_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "least_bytes", lambda: 7 * 32 * 4)
    mlp = _mlp()
    pairs = [(mlp.act1, mlp.fc1), (mlp.act2, mlp.fc2)]
    assert blocks.layers_for_blocks(torch.randn(6, 16), pairs) is None
    assert blocks.layers_for_blocks(torch.randn(7, 16), pairs) is not None
    x = torch.randn(6, 16)
    torch.testing.assert_close(mlp(x), _one_by_one(mlp, x))
    monkeypatch.undo()
    monkeypatch.setattr(blocks, "second_level_cache", lambda: 1 << 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert blocks.least_bytes() == 1 << 22


@pytest.mark.parametrize(("text", "size"), [("2048K\n", 1 << 21), ("", 1 << 20), (None, 1 << 20)])
def test_the_size_of_a_cache_is_what_linux_tells(tmp_path, monkeypatch, text, size):
    path = tmp_path / "size"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(blocks, "_LEVEL_2", path)
    blocks.second_level_cache.cache_clear()
    assert blocks.second_level_cache() == size
    blocks.second_level_cache.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 16), (2, 9, 16)])
@pytest.mark.parametrize("layer", [kat.GRKANMlp, kat.GRKANLinear])
def test_an_output_may_be_changed_in_place(dtype, shape, layer):
    module, x = layer(16, 16, dtype=dtype), torch.randn(shape, dtype=dtype, requires_grad=True)
    y = module(x)
    y += 1
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_numerator", torch.zeros(1, 6, device="meta")),
        ("weight_numerator", torch.zeros(0, 6)),
        ("weight_numerator", torch.zeros(3, 6)),
        ("weight_numerator", torch.zeros(1, 1)),
        ("weight_numerator", torch.zeros(6)),
        ("weight_numerator", torch.zeros(1, 6, dtype=torch.int64)),
        ("weight_denominator", torch.zeros(16, 2)),
        ("form", "C"),
    ],
)
@torch.no_grad()
def test_coefficients_that_do_not_fit_are_named(name, value):
    mlp = _mlp()
    if isinstance(value, torch.Tensor):
        value = nn.Parameter(value, requires_grad=False)
    if name == "weight_denominator":
        mlp.act2.weight_numerator = nn.Parameter(torch.ones(3, 6), requires_grad=False)
    setattr(mlp.act2, name, value)
    with pytest.raises((ValueError, TypeError, NotImplementedError)):
        mlp(torch.randn(7, 16))


@pytest.mark.parametrize("keep", ["hidden", "input"])
def test_kept_tensors_may_come_back_strided(keep):
    mlp, x, grad = _mlp(keep=keep), torch.randn(12, 16, requires_grad=True), torch.randn(12, 24)
    expected = _gradients(mlp, x, grad)

    def strided(tensor):
        return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, strided):
        found = _gradients(mlp, x, grad)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_autocast_leaves_float64_alone(spaces):
    mlp, x = _mlp(dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = mlp(x)
        assert spaces
        torch.testing.assert_close(y, _one_by_one(mlp, x))
        with pytest.raises(RuntimeError):
            _mlp(first_init="none")(x)


def test_a_frozen_model_keeps_nothing(monkeypatch):
    mlp = _mlp().requires_grad_(False)
    monkeypatch.setattr("kat.nn.blocks._InBlocks", None)
    assert not mlp(torch.randn(7, 16)).requires_grad
    assert mlp.to(torch.bfloat16)(torch.randn(7, 16).bfloat16()).dtype == torch.bfloat16


def test_gradients_of_coefficients_in_bfloat16_are_added_up_in_float32():
    mlp = _mlp()
    for act in (mlp.act1, mlp.act2):
        act.to(torch.bfloat16)
    x, grad = torch.randn(600, 16, requires_grad=True), torch.randn(600, 24)
    expected = _gradients(_by_modules(mlp), x, grad)
    for ours, theirs in zip(_gradients(mlp, x, grad), expected, strict=True):
        assert ours.dtype == theirs.dtype
        rtol = 0.01 if ours.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-3)


def test_a_bias_may_change_between_forward_and_backward():
    mlp, x = _mlp(), torch.randn(7, 16, requires_grad=True)
    y = mlp(x)
    with torch.no_grad():
        mlp.fc2.bias.zero_()
    y.sum().backward()
    assert x.grad is not None


def test_a_model_that_keeps_its_input_is_exported():
    mlp, x = _mlp(keep="input"), torch.randn(7, 16)
    program = torch.export.export(mlp, (x,), strict=True)
    torch.testing.assert_close(program.module()(x), mlp(x))
