"""Small grids, and backends that are wrong in a chosen way."""

from __future__ import annotations

from dataclasses import replace

import torch

import kat
from kat.analysis.verify.backends import Backend
from kat.analysis.verify.cases import Grid

MODERATE = Grid(
    forms=("A",), degrees=((5, 4),), sets=("silu", "random", "trained"), points=2, largest=1e3
)
SMALL = replace(MODERATE, dtypes=("float32",), sets=("random",))


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

    def function(x, a, b, form):
        return _Wrong.apply(x, a, b, form, spoil)

    return Backend("wrong", function, twice=False)
