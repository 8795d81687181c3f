"""The step of the report that makes the comparison of the first call, for every kind of kernel."""

from __future__ import annotations

import itertools

import torch

from gpu.plan import Plan
from gpu.run import Emit
from kat.ops.triton import backend as triton
from kat.ops.triton import selfcheck


def first_calls(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The comparison of the first call, of every kind: its error / tolerance; above 1 it warns."""
    pairs = [(dtype, dtype) for dtype in triton.DTYPES]
    pairs += [(torch.float32, out) for out in triton.DTYPES[1:]]  # under autocast
    if plan.stand_in:
        pairs = [(torch.float32, torch.float32)]  # the interpreter cuts bfloat16 off
    kernels, reason = triton.load()
    if reason:
        raise RuntimeError(reason)
    wrong = []
    number, count = share
    for (dtype, out), form, gated in [*itertools.product(pairs, "AB", (False, True))][
        number::count
    ]:
        device = torch.device(plan.device)
        ratio = selfcheck.largest_error(kernels, device, dtype, out, form, (5, 4), gated)
        kind = {"dtype": str(dtype), "output": str(out), "form": form, "gated": str(gated)}
        emit({**kind, "error / tolerance": ratio})
        wrong += [] if ratio <= 1 else [f"{dtype} to {out}, form {form}"]
    if wrong:
        raise AssertionError(f"{len(wrong)} kinds are wrong, first {wrong[0]}")
