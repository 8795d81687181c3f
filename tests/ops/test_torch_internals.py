"""What the private names of torch tell, and that kat gives the same results without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from kat.ops import torch_internals

ROOT = Path(__file__).parents[2]


def test_function_transforms_and_forward_mode_are_seen():
    seen = {}

    def look(name):
        def function(x):
            seen[name] = (
                torch_internals.in_function_transform(),
                torch_internals.in_vmap(),
                torch_internals.in_forward_mode(),
            )
            return x.sum()

        return function

    x = torch.randn(3)
    look("none")(x)
    torch.func.vmap(look("vmap"))(torch.randn(2, 3))
    torch.func.grad(look("grad"))(x)
    torch.func.jvp(look("jvp"), (x,), (x,))
    with forward_ad.dual_level():
        look("dual")(x)
        with pytest.raises(RuntimeError, match="impl='reference'"):
            torch_internals.refuse_forward_mode()
    torch_internals.refuse_forward_mode()
    assert seen == {
        "none": (False, False, False),
        "vmap": (True, True, False),
        "grad": (True, False, False),
        "jvp": (True, False, True),
        "dual": (True, False, True),
    }


def test_only_ordinary_tensors_are_plain():
    x, leaf = torch.randn(3), torch.randn(3, requires_grad=True)
    assert torch_internals.is_eager(x, leaf, nn.Parameter(x), torch.empty(0))
    assert not torch_internals.is_eager(x.to(torch.complex64).conj().imag)
    assert not torch_internals.is_eager(torch._efficientzerotensor(3))
    seen = []
    leaf.register_hook(lambda grad: seen.append(torch_internals.is_eager(grad)))
    torch.autograd.grad(2 * leaf, leaf, torch.eye(3), is_grads_batched=True)
    assert seen == [False]


class _AnyMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_a_default_device_leaves_tensors_plain_and_another_mode_does_not():
    """It changes only where tensors lie that are made without a device."""
    x = torch.randn(3)
    with torch.device("cpu"):
        assert torch_internals.is_eager(x)
        with _AnyMode(), torch.device("meta"):
            assert not torch_internals.is_eager(x)


@pytest.mark.parametrize("name", ["forward_hook", "forward_pre_hook", "full_backward_hook",
                                  "full_backward_pre_hook"])  # fmt: skip
def test_hooks_and_a_forward_of_the_instance_are_seen(name):
    module = nn.Linear(2, 2)
    assert not torch_internals.is_patched(module)
    handle = getattr(module, f"register_{name}")(lambda *arguments: None)
    assert torch_internals.is_patched(module)
    handle.remove()
    assert not torch_internals.is_patched(module)
    module.forward = lambda x: x
    assert torch_internals.is_patched(module)


WITHOUT_ANY = """
import types
import timm, torch, torchvision  # before torch lacks what they need to be imported
from torch.autograd import forward_ad

del torch._C._functorch.get_interpreter_stack, torch._C._functorch.is_legacy_batchedtensor
del torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
del torch._is_zerotensor, torch.autograd._profiler_enabled
torch.autograd.forward_ad = types.SimpleNamespace(make_dual=forward_ad.make_dual)
import kat

torch.manual_seed(0)
x, a, b = torch.randn(6, 16), torch.randn(1, 6), torch.randn(8, 4)
one = torch.ones_like(x)


def all_kinds(impl):
    def f(x):
        return kat.rational(x, a, b, impl=impl)

    leaf = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(f(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(dx.sum(), leaf)
    yield from (f(x), dx, second)
    grads = torch.stack([one, 2 * one])
    if impl is None:
        yield torch.autograd.grad(f(leaf), leaf, grads, is_grads_batched=True)[0]
    else:  # torch's own rules for such batches need the missing names
        yield torch.stack([torch.autograd.grad(f(leaf), leaf, g)[0] for g in grads])
    yield torch.func.grad(lambda x: f(x).sum())(x)
    yield torch.func.vmap(f)(x)
    yield torch.func.jvp(f, (x,), (one,))[1]
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, one))).tangent
    yield tangent


for ours, expected in zip(all_kinds(None), all_kinds("reference"), strict=True):
    torch.testing.assert_close(ours, expected)
mlp = kat.GRKANMlp(16, 32)
y = mlp(x)
y.sum().backward()
plain = mlp.fc2(mlp.act2(mlp.fc1(mlp.act1(x))))
torch.testing.assert_close(y, plain)
for parameter, grad in zip(mlp.parameters(), torch.autograd.grad(plain.sum(), mlp.parameters())):
    torch.testing.assert_close(parameter.grad, grad)
try:
    torch.func.vmap(lambda x: kat.rational(x, a, b, impl="cpu"))(x)
except RuntimeError as error:
    print(error)
try:
    print(torch.equal(kat.rational(x, a, b), kat.rational(x, a, b, impl="cpu")))
except kat.errors.BackendUnavailable:
    print(True)
"""


@pytest.mark.slow
def test_kat_works_without_any_of_the_names():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ANY], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    refusal, same = done.stdout.splitlines()
    assert "impl='cpu'" in refusal
    assert same == "True"
