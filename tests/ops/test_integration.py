"""The operator and its layers under PyTorch's own machinery: export, checkpointing, DDP, FSDP."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import kat


def _mlp(keep=None):
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(16, 32, keep=keep)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return mlp


def _gradients(module, x):
    module.zero_grad()
    module(x).square().sum().backward()
    return [_whole(parameter.grad) for parameter in module.parameters()]


def _whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


X = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


class _Functional(nn.Module):
    """A rational by the call of a function, on channels that are not the last."""

    def __init__(self):
        super().__init__()
        self.act = kat.GroupRational(4, channel_dim=1)

    def forward(self, x):
        a, b = self.act.weight_numerator, self.act.weight_denominator
        return kat.rational(x, a, b) + self.act(x)


@pytest.mark.parametrize("layer", [_mlp, lambda: kat.GRKANLinear(16, 4), _Functional])
def test_fx_records_a_rational_as_one_call(layer):
    module = layer()
    traced = fx.symbolic_trace(module)
    assert any(node.target is kat.rational for node in traced.graph.nodes)
    torch.testing.assert_close(traced(X), module(X))
    expected = _gradients(module, X)
    torch.testing.assert_close(_gradients(traced, X), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["mlp", "torchscript", "form B", "channels", "kanified", "program"]
)
def test_a_model_of_ones_own_becomes_onnx(kind, tmp_path):
    """With torch's exporter alone, and by standard operators alone."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    x, model = X, _mlp()
    if kind == "form B":
        model = kat.GRKANMlp(16, form="B", impl="reference")
    elif kind == "channels":
        x = torch.randn(2, 3, 5, 5)
        model = nn.Sequential(nn.Conv2d(3, 16, 3), kat.GroupRational(channel_dim=1))
    elif kind == "kanified":
        model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
        kat.kanify(model)
    model.eval()
    exported, arguments, path = model, (x,), tmp_path / "model.onnx"
    if kind == "program":
        exported, arguments = torch.export.export(model, (x,)), ()
        exported = exported.run_decompositions(kat.ops.decompositions())
    torch.onnx.export(exported, arguments, path, dynamo=kind != "torchscript", verbose=False)
    session = onnxruntime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x))


def test_export_with_a_dynamic_batch():
    mlp = _mlp().eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(mlp, (X,), dynamic_shapes=({0: batch},))
    longer = torch.randn(9, 16)
    torch.testing.assert_close(program.module()(longer), mlp(longer))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "kat.rational.default" in targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strict", "impl"),
    [
        (True, None),
        (False, None),
        (False, "reference"),
        pytest.param(True, "reference", marks=pytest.mark.release),
    ],
)
def test_an_exported_layer_trains(strict, impl):
    mlp = _mlp()
    mlp.act1.impl = mlp.act2.impl = impl
    exported = torch.export.export(mlp, (X,), strict=strict).module()
    torch.testing.assert_close(_gradients(exported, X), _gradients(mlp, X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_layer_computes_the_same():
    mlp = _mlp()
    traced = torch.jit.trace(mlp, (X,))
    torch.testing.assert_close(traced(X + 1), mlp(X + 1))


@pytest.mark.parametrize("keep", ["hidden", "all"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant, keep):
    mlp = _mlp(keep=keep)
    expected = _gradients(mlp, X)
    x = X.clone().requires_grad_()
    actual = _gradients_of(lambda: checkpoint(mlp, x, use_reentrant=use_reentrant), mlp)
    torch.testing.assert_close(actual, expected)


def _gradients_of(forward, module):
    module.zero_grad()
    forward().square().sum().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


@pytest.mark.parametrize("wrap", [DistributedDataParallel, fully_shard], ids=["ddp", "fsdp"])
def test_data_parallel_wrappers(process_group, wrap):
    expected = _gradients(_mlp(), X)
    torch.testing.assert_close(_gradients(wrap(_mlp()), X), expected)


def test_layers_of_fake_tensors_leave_later_ones_alone():
    """A cached tensor of the mode would be one of the layers outside it."""
    importlib.reload(sys.modules["kat.nn.quadrature"])  # forgets what is cached
    layers = (
        lambda: kat.GRKANLinear(16, 8),
        lambda: kat.GRKANLinear(16, 8, weight_init="centered"),
        lambda: kat.nn.BSplineKANMlp(16, weight_init="variance_preserving"),
    )
    for layer in layers:
        with FakeTensorMode():
            assert layer()(torch.zeros(3, 16)).shape[0] == 3
        assert layer()(X).isfinite().all()


@pytest.mark.parametrize("impl", [None, "reference"])
def test_x_of_sequence_parallelism_is_refused_with_the_remedy(impl, process_group):
    x = distribute_tensor(X, init_device_mesh("cpu", (1,)), [Shard(0)])
    layer = kat.GroupRational(impl=impl)
    with pytest.raises(TypeError, match="DTensor"):
        layer(x)
    assert torch.equal(layer(x.to_local()), layer(X))


@pytest.mark.filterwarnings("ignore:DTensor random operators")
@pytest.mark.parametrize("weight_init", ["variance_preserving", "centered", "trunc_normal"])
def test_fsdp_from_the_meta_device(process_group, weight_init):
    """The values of a layer that was built where it runs."""
    options = {"weight_init": weight_init, "share": "none"}
    for layer in (lambda: kat.GRKANLinear(16, 8, **options), lambda: kat.GRKANMlp(16, **options)):
        expected = layer()
        with torch.device("meta"):
            sharded = fully_shard(layer())
        sharded.to_empty(device="cpu")
        for module in (expected, sharded):
            torch.manual_seed(2)
            module.reset_parameters()
        torch.testing.assert_close(sharded(X), expected(X))
        assert sharded(X).std() > 0
