"""Layers and models in compiled code: one graph, for batches and sequences of any length."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.autograd import forward_ad

import kat
from kat.nn.blocks import sizes


def _tokens(batch=2, length=7):
    return torch.randn(batch, length, 16)


CASES = {
    "rational": (kat.GroupRational, [_tokens(batch) for batch in (2, 3, 8, 64)]),
    "channels first": (
        lambda: kat.GroupRational(channel_dim=1),
        [torch.randn(batch, 16, side, side) for batch, side in ((2, 4), (3, 5), (4, 8))],
    ),
    "mlp": (lambda: kat.GRKANMlp(16, 64), [_tokens(length=length) for length in (4, 7, 9, 100)]),
    "keep": (lambda: kat.GRKANMlp(16, 64, keep="input"), [_tokens(batch) for batch in (2, 3, 64)]),
    "model": (
        lambda: timm.create_model("kat_micro_patch2_8"),
        [torch.randn(batch, 3, 8, 8) for batch in (2, 3, 5)],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "dynamic", "graphs"),
    [
        *((name, True, 1) for name in CASES if name != "model"),
        ("mlp", None, 2),
        pytest.param("model", True, 1, marks=pytest.mark.slow),
    ],
)
def test_sizes_that_change_need_no_graph_of_their_own(name, dynamic, graphs, training):
    """By default the compiler takes a size for fixed until it changes for the first time."""
    make, inputs = CASES[name]
    compiled = []

    def count(graph, examples):
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    module = make().train(training)
    function = torch.compile(module, backend=count, fullgraph=True, dynamic=dynamic)
    with torch.set_grad_enabled(training):
        for x in inputs:
            y = function(x)
            torch.testing.assert_close(y, module(x))
            if training:
                y.sum().backward()
    assert len(compiled) == graphs


ONE = "kat.grkan_mlp.default"


def _targets(module, x, dynamic=None):
    """The functions in the graph of a call, and its value."""
    graphs = []

    def keep(graph, examples):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    y = torch.compile(module, backend=keep, fullgraph=True, dynamic=dynamic)(x)
    (graph,) = graphs
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"], y


@pytest.mark.parametrize(
    "options",
    [{}, {"first_init": "none"}, {"form": "B", "bias": False}, {"keep": "input"}, {"drop": 0.1},
     {"dtype": torch.float64}, {"dtype": torch.bfloat16}],
)  # fmt: skip
def test_at_inference_a_compiled_mlp_is_one_operator(monkeypatch, options):
    monkeypatch.setattr(sizes, "least_bytes", lambda: 0)
    dtype = options.get("dtype", torch.float32)
    mlp, x = kat.GRKANMlp(16, 64, **options).eval(), _tokens().to(dtype)
    with torch.no_grad():
        targets, y = _targets(mlp, x)
        expected = mlp.fc2(mlp.act2(mlp.fc1(mlp.act1(x))))
    assert targets == [ONE]
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def test_a_small_compiled_mlp_is_its_parts_where_its_size_is_fixed():
    mlp, x = kat.GRKANMlp(16, 64).eval(), _tokens()
    with torch.no_grad():
        for dynamic, operators in ((False, ["kat.rational.default"] * 2), (True, [ONE])):
            targets, y = _targets(mlp, x, dynamic)
            assert [target for target in targets if "kat." in target] == operators
            torch.testing.assert_close(y, mlp(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["training", "autocast", "hook", "requested", "dropout", "other dtype", "norm between"]
)
def test_a_compiled_mlp_is_its_parts_where_a_call_is_more_than_its_formula(how):
    options = {"impl": "reference"} if how == "requested" else {}
    if how == "norm between":
        options["norm_layer"] = torch.nn.LayerNorm
    mlp, x = kat.GRKANMlp(16, 64, drop=0.5, **options).eval(), _tokens()
    if how == "hook":
        mlp.fc1.register_forward_hook(lambda module, given, y: 2 * y)
    if how == "dropout":
        mlp.train()
    if how == "other dtype":
        mlp.act2.double()
        mlp.fc2.double()
        mlp.fc1.register_forward_hook(lambda module, given, y: y.double())
    amp = torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast")
    with torch.set_grad_enabled(how == "training"), amp:
        targets, y = _targets(mlp, x)
        assert not any("grkan_mlp" in target for target in targets)
        if how != "dropout":
            torch.testing.assert_close(y, mlp(x))


def test_the_operator_of_an_mlp_is_sound():
    mlp, x = kat.GRKANMlp(16, 64, first_init="none", bias=False).requires_grad_(False), _tokens()
    a, b = mlp.act2.parameters()
    parameters = [None, None, mlp.fc1.weight, None, a, b, mlp.fc2.weight, None]
    torch.library.opcheck(torch.ops.kat.grkan_mlp.default, (x, parameters, ["A", "A"]))


def _large():
    """An MLP and an input for which compiled code runs in blocks, and its compiled code."""
    torch._dynamo.reset()
    mlp = kat.GRKANMlp(32, 128).eval()
    return mlp, torch.compile(mlp, backend="eager"), torch.randn(20_000, 32)


@torch.no_grad()
def test_compiled_code_sees_a_hook_that_comes_later():
    _, compiled, x = _large()
    layer = torch.compile(kat.GRKANLinear(32, 8), backend="eager")
    (compiled(x), layer(x))
    seen = []
    handle = kat.nn.register_grkan_hook(lambda act, linear, x, y: seen.append(tuple(y.shape)))
    (compiled(x), layer(x))
    handle.remove()
    assert seen == [(20_000, 128), (20_000, 32), (20_000, 8)]


@torch.no_grad()
def test_compiled_code_refuses_forward_mode_at_every_size():
    _, compiled, x = _large()
    for rows in (x, x[:64]):
        compiled(rows)
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode"):
            compiled(forward_ad.make_dual(rows, rows))
