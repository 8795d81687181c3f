"""``kat verify``: right backends pass, wrong ones are caught and named."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

import numpy as np
import pytest
import torch

import kat
from kat.analysis.verify import Backend, cases, verify, verify_interpreted

SMALL = cases(["float32"], degrees=[(5, 4)], names=["random"])


class _Wrong(torch.autograd.Function):
    """The reference with something done to its value and to its gradients."""

    @staticmethod
    def forward(ctx, x, a, b, form, spoil):
        ctx.save_for_backward(x, a, b)
        ctx.form, ctx.spoil = form, spoil
        y = kat.rational(x, a, b, form=form, impl="reference")
        return spoil(x, y=y)["y"]

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            x, a, b = leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            y = kat.rational(x, a, b, form=ctx.form, impl="reference")
        parts = dict(zip(("dx", "da", "db"), torch.autograd.grad(y, leaves, grad), strict=True))
        return *(ctx.spoil(x, **parts)[name] for name in ("dx", "da", "db")), None, None


def wrong(**changes):
    """A backend whose named parts pass through functions of x and the part."""

    def spoil(x, **parts):
        return {n: changes[n](x, t) if n in changes else t for n, t in parts.items()}

    return Backend("wrong", lambda x, a, b, form: _Wrong.apply(x, a, b, form, spoil))


def test_x_reaches_the_maximum_of_the_dtype():
    for case in cases():
        info = torch.finfo(case.x.dtype)
        sizes = set(case.x.abs().tolist())
        assert {0.0, info.tiny, info.max} <= sizes
        assert any(1 < size < 10 for size in sizes)


@pytest.mark.parametrize(
    ("changes", "caught"),
    [
        ({"y": lambda x, t: t * (1 + 3e-6)}, {"y"}),
        ({"y": lambda x, t: torch.where(x == 0, torch.nan, t)}, {"y"}),
        ({"dx": lambda x, t: torch.where(x.abs() > 1e8, -t, t)}, {"dx"}),
        ({"dx": lambda x, t: torch.where(x.abs() < 1e-30, 0, t)}, {"dx"}),
        ({"da": lambda x, t: t - t / 24}, {"da"}),
        ({"db": lambda x, t: t.roll(1, dims=1)}, {"db"}),
    ],
)
def test_a_wrong_backend_is_caught_and_named(changes, caught):
    failed = {r.quantity: str(r) for r in verify([wrong(**changes)], SMALL) if not r.ratio <= 1}
    assert set(failed) == caught
    for line in failed.values():
        assert line.startswith("wrong: ")
        assert "degree 5/4, float32" in line
        assert "times the tolerance" in line
    assert all(result.ratio <= 1 for result in verify([wrong()], SMALL))


def test_beyond_the_maximum_infinity_is_right_and_another_sign_is_not():
    (case,) = (c for c in cases(["float16"], [(5, 4)], ["spread"]) if c.form == "A")
    y = wrong().function(case.x[:, None], case.a, case.b, form="A")
    assert y.isinf().any()
    assert verify([wrong()], [case])[0].ratio <= 1
    flipped = wrong(y=lambda x, t: torch.where(t.isinf(), -t, t))
    assert verify([flipped], [case])[0].ratio > 1


def test_a_backend_that_raises_has_failed():
    (first, *_) = verify([Backend("broken", lambda x, a, b, form: x / torch.ones(3, 7))], SMALL)
    assert not first.ratio <= 1
    assert "raised RuntimeError: " in str(first)


@pytest.mark.release
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; get it with: pip install triton",
)
def test_the_gpu_kernels_interpreted():
    triton = importlib.metadata.version("triton")
    if triton.startswith("3.6.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 does not work with numpy 2.4 and later")
    before = dict(os.environ)
    found = verify_interpreted()
    assert dict(os.environ) == before  # benchmarks/peers.py stops where the variable is set
    assert {result.backend for result in found} == {"interpreted triton"}
    assert [str(result) for result in found if not result.ratio <= 1] == []
