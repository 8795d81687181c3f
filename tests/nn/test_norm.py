"""A LayerNorm that an MLP gets along with its input: the same results, and when it is called."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import LayerNorm as TimmLayerNorm
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional

import kat
from kat.models.block import KATBlock, mlp_of_norm
from kat.nn import register_grkan_hook
from kat.nn.execution import blocks, layer
from tests import kernels
from tests.nn.saved import saved_bytes

KERNEL = pytest.mark.skipif(bool(kernels.problem()), reason=kernels.problem())
pytestmark = KERNEL


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(layer, "LEAST_BYTES", 0)


@pytest.fixture(params=[False, True], ids=["whole", "blocks"])
def in_blocks(request, monkeypatch):
    """Layers of any size run in blocks of a few rows, or none do."""
    monkeypatch.setattr(blocks, "least_bytes", lambda: 0 if request.param else 1 << 40)
    monkeypatch.setattr(blocks, "block_rows", lambda row_bytes: 7)
    return request.param


@pytest.fixture
def joined(monkeypatch):
    """What became of each norm that an MLP got along."""
    found = []
    original = layer.joined_norm

    def record(*arguments):
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr("kat.nn.grkan.joined_norm", record)
    return found


def modules(width=24, dtype=torch.float32, kind=nn.LayerNorm, **options):
    """An MLP and a norm with parameters of their own."""
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(width, 2 * width, dtype=dtype, **options)
    norm = kind(width, dtype=dtype)
    for parameter in (norm.weight, norm.bias, mlp.act2.weight_denominator):
        nn.init.normal_(parameter)
    if isinstance(mlp.act1, kat.GroupRational):
        nn.init.normal_(mlp.act1.weight_denominator)
        nn.init.normal_(mlp.act1.weight_numerator)
    return mlp, norm


def results(call, x, *models):
    x = x.detach().requires_grad_()
    parameters = [p for model in models for p in model.parameters() if p.requires_grad]
    y = call(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    return y, *torch.autograd.grad(y, [x, *parameters], grad)


def assert_equal_to_modules(mlp, norm, x, *, rtol=1e-5):
    got = results(lambda x: mlp(x, norm=norm), x, mlp, norm)
    expected = results(lambda x: mlp(norm(x)), x, mlp, norm)
    for ours, true in zip(got, expected, strict=True):
        size = true.detach().abs().max().item()
        torch.testing.assert_close(ours, true, rtol=rtol, atol=rtol * size)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x, norm=norm), expected[0].detach(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("keep", ["hidden", "input"])
def test_values_and_gradients_are_those_of_the_norm_and_the_mlp(
    in_blocks, joined, share, form, keep
):
    mlp, norm = modules(dtype=torch.float64, share=share, form=form, keep=keep)
    x = torch.randn(3, 11, 24, dtype=torch.float64)
    assert_equal_to_modules(mlp, norm, x, rtol=1e-10)
    assert all(joined)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(in_blocks, joined, dtype):
    mlp, norm = modules(dtype=dtype)
    x = torch.randn(3, 11, 24).to(dtype)
    assert_equal_to_modules(mlp, norm, x, rtol=1e-5 if dtype == torch.float32 else 0.1)
    assert all(joined)


@pytest.mark.parametrize("frozen", ["mlp.act1", "mlp.fc1", "mlp", "norm"])
def test_frozen_parameters(in_blocks, frozen):
    mlp, norm = modules(dtype=torch.float64)
    parts = {"mlp": mlp, "norm": norm, "mlp.act1": mlp.act1, "mlp.fc1": mlp.fc1}
    parts[frozen].requires_grad_(False)
    assert_equal_to_modules(mlp, norm, torch.randn(19, 24, dtype=torch.float64), rtol=1e-10)


def test_with_dropout_after_the_rational_the_norm_is_called(in_blocks, joined):
    mlp, norm = modules(drop=0.5)
    x = torch.randn(19, 24)
    torch.manual_seed(1)
    got = mlp(x, norm=norm)
    torch.manual_seed(1)
    torch.testing.assert_close(got, mlp(norm(x)))
    assert not joined


def test_second_derivatives(in_blocks):
    mlp, norm = modules(width=8, dtype=torch.float64)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: mlp(x, norm=norm), [x])


class Together(nn.Module):
    def __init__(self, mlp, norm):
        super().__init__()
        self.mlp, self.norm = mlp, norm

    def forward(self, x):
        return self.mlp(x, norm=self.norm)


@pytest.mark.parametrize("keep", ["hidden", "input"])
def test_the_norm_keeps_nothing(in_blocks, keep):
    mlp, norm = modules(keep=keep)
    x = torch.randn(64, 24, requires_grad=True)
    kept = saved_bytes(Together(mlp, norm), x)
    assert kept == 64 * 4 * (24 + 48 * (keep == "hidden"))
    apart = saved_bytes(nn.Sequential(norm, mlp), x)
    assert apart == kept + 64 * 4 * (24 + 2)  # LayerNorm(x), mean and standard deviation


def test_small_inputs_call_the_norm_at_inference(joined, monkeypatch):
    monkeypatch.setattr(layer, "LEAST_BYTES", 5 * 24 * 4)
    mlp, norm = modules()
    mlp(torch.randn(4, 24), norm=norm)
    with torch.no_grad():
        mlp(torch.randn(5, 24), norm=norm)
        mlp(torch.randn(4, 24), norm=norm)
    assert [found is not None for found in joined] == [True, True, False]


def test_timms_layer_norm_joins(joined, monkeypatch):
    mlp, norm = modules(kind=TimmLayerNorm)
    assert_equal_to_modules(mlp, norm, torch.randn(5, 24))
    assert all(joined)
    monkeypatch.setattr(norm, "_fast_norm", True)
    assert layer.joined_norm(norm, mlp.act1, torch.randn(5, 24)) is None


class OtherNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def patched(module):
    forward = module.forward
    module.forward = lambda x: forward(x) - 1
    return module


@pytest.mark.parametrize(
    "norm",
    [
        lambda: hooked(nn.LayerNorm(24)),
        lambda: patched(nn.LayerNorm(24)),
        lambda: OtherNorm(24),
        lambda: nn.RMSNorm(24),
        lambda: nn.Identity(),
        lambda: nn.LayerNorm(24, elementwise_affine=False),
        lambda: nn.LayerNorm(24, bias=False),
        lambda: nn.LayerNorm((11, 24)),
    ],
    ids=["hook", "forward", "class", "rms", "identity", "plain", "no bias", "two dimensions"],
)
def test_other_norms_are_called(in_blocks, joined, norm):
    mlp, _ = modules()
    norm = norm()
    assert_equal_to_modules(mlp, norm, torch.randn(3, 11, 24))
    assert joined
    assert not any(joined)


def test_mlps_whose_parts_are_more_than_formulas_call_the_norm(joined):
    x = torch.randn(5, 24)
    for mlp, norm in (
        modules(first_init="none"),
        modules(impl="reference"),
        modules(dtype=torch.float32),
    ):
        hooked(mlp.act1)
        assert_equal_to_modules(mlp, norm, x)
    assert not any(joined)
    mlp, norm = modules(fused=False)
    joined.clear()
    assert_equal_to_modules(mlp, norm, x)
    assert not joined


@pytest.mark.parametrize("keep", ["hidden", "input"])
def test_hooks_of_layers_see_the_norms_output_and_its_gradient(joined, keep):
    mlp, norm = modules(keep=keep)
    x, gradients = torch.randn(5, 24), []
    expected = results(lambda x: mlp(x, norm=norm), x, mlp, norm)
    seen = {}

    def see(act, linear, x, y):
        if act is mlp.act1 and not seen:
            seen["x"] = x
            x.register_hook(gradients.append)

    handle = register_grkan_hook(see)
    watched = results(lambda x: mlp(x, norm=norm), x, mlp, norm)
    handle.remove()
    assert all(torch.equal(ours, true) for ours, true in zip(watched, expected, strict=True))
    torch.testing.assert_close(seen["x"], norm(x))
    z = norm(x).detach().requires_grad_()
    grad = torch.randn(5, 24, generator=torch.Generator().manual_seed(3))
    mlp(z).backward(grad)
    torch.testing.assert_close(gradients, [z.grad], rtol=1e-4, atol=1e-4)
    assert all(joined)


def test_autocast_of_float32_joins_and_of_bfloat16_does_not(joined):
    mlp, norm = modules()
    x = torch.randn(5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mlp(x, norm=norm), mlp(norm(x)), rtol=0.02, atol=0.02)
        mlp.bfloat16()(x.bfloat16(), norm=norm.bfloat16())
    assert joined[0] is not None
    assert joined[1] is None


def test_transforms_and_meta_tensors_call_the_norm(joined):
    mlp, norm = modules()
    x = torch.randn(5, 24)
    mapped = torch.func.vmap(lambda x: mlp(x, norm=norm))(x)
    torch.testing.assert_close(mapped, mlp(norm(x)))
    mlp.to("meta")(x.to("meta"), norm=norm.to("meta"))
    assert not any(joined)


def test_shapes_that_do_not_fit_raise_what_the_modules_raise():
    mlp, norm = modules()
    x = torch.randn(5, 16)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        mlp(x, norm=norm)


def small_kat(**options):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
    torch.manual_seed(0)
    model = kat.models.KAT(**sizes, num_classes=5, **options)
    for name, parameter in model.named_parameters():
        if "norm2" in name or "act1" in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return model


def with_timms_blocks(model):
    other = copy.deepcopy(model)
    for block in other.blocks:
        block.__class__ = Block
    return other


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1, "keep": "input"}])
def test_kats_give_what_they_give_with_timms_blocks(in_blocks, joined, options):
    model = small_kat(**options)
    assert all(type(block) is KATBlock for block in model.blocks)
    x = torch.randn(3, 3, 32, 32)
    got = results(model, x, model)
    other = with_timms_blocks(model)
    for ours, true in zip(got, results(other, x, other), strict=True):
        size = true.detach().abs().max().item()
        torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-4 * size)
    assert len(joined) == 2
    assert all(joined)


def test_drop_path_is_that_of_timms_blocks():
    model = small_kat(drop_path_rate=0.5).train()
    x = torch.randn(8, 3, 32, 32)
    outputs = []
    for candidate in (model, with_timms_blocks(model)):
        torch.manual_seed(5)
        outputs.append(candidate(x))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_state_dicts_are_those_of_timms_blocks(tmp_path):
    model = timm.create_model("kat_tiny_patch16_224")
    names = list(model.state_dict())
    assert names == list(with_timms_blocks(model).state_dict())
    assert "blocks.0.norm2.weight" in names
    other = timm.create_model("kat_tiny_patch16_224", block_fn=Block)
    other.load_state_dict(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == 5_718_328


def test_hooks_on_norm_and_mlp_see_what_they_see_in_timm(joined):
    model, seen = small_kat(), []
    block = model.blocks[0]
    x = torch.randn(2, 17, 48)
    handle = block.norm2.register_forward_hook(lambda *arguments: seen.append("norm"))
    expected = block.mlp(block.norm2(x))
    seen.clear()
    torch.testing.assert_close(mlp_of_norm(block, x), expected)
    assert seen == ["norm"]
    handle.remove()
    handle = block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    mlp_of_norm(block, x)
    torch.testing.assert_close(seen[1][0], block.norm2(x))
    handle.remove()
    assert not any(joined)


def test_checkpointed_blocks_have_the_same_gradients(joined):
    model = small_kat()
    x = torch.randn(2, 3, 32, 32)
    expected = results(model, x, model)
    model.set_grad_checkpointing()
    for ours, true in zip(results(model, x, model), expected, strict=True):
        torch.testing.assert_close(ours, true)
    assert all(joined)


def test_compiled_it_is_one_graph_and_timms():
    model = small_kat().eval()
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got, expected = results(compiled, x, model), results(model, x, model)
    for ours, true in zip(got, expected, strict=True):
        size = true.detach().abs().max().item()
        torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-4 * size)


def test_exported_and_traced_programs_hold_layer_norm():
    model = small_kat().eval()
    x = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (x,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.layer_norm.default" in targets
    assert not any("layer_norm_rational" in target for target in targets)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
    traced = {node.target for node in torch.fx.symbolic_trace(model.blocks[0]).graph.nodes}
    assert functional.layer_norm in traced
    assert kat.ops.layer_norm_rational not in traced


@pytest.mark.parametrize("first_init", ["identity", "none"])
def test_an_mlp_traced_by_itself_takes_a_norm_or_none(first_init):
    mlp, norm = modules(first_init=first_init)
    x = torch.randn(3, 5, 24)
    traced = copy.deepcopy(torch.fx.symbolic_trace(mlp))
    torch.testing.assert_close(traced(x, norm), mlp(norm(x)))
    torch.testing.assert_close(traced(x), mlp(x))
