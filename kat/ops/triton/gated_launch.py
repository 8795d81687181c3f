"""Launches the GPU kernels of the gate F(x) v."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kat.ops.triton import gated_kernels
from kat.ops.triton.launch import (
    BACKWARD_PROGRAMS,
    FORWARD_PROGRAMS,
    INT32_ELEMENTS,
    LANES,
    OPTIONS,
    CoefficientSums,
    Sharing,
    constants,
    multiprocessors,
)


def forward_into(
    y: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> None:
    """y <- F(x) v; arguments as in :func:`kat.ops.cpu.gated.forward_into`."""
    a, b = numerator.contiguous(), denominator.contiguous()
    share = _share(x, a, b, FORWARD_PROGRAMS)
    x, v = _in_vectors(x, v, share)
    gap = _gap(x, share)
    with torch.cuda.device_of(x):
        gated_kernels.forward_kernel[(share.programs,)](
            *(x, v, y, a, b, share.count, share.groups, share.run, gap),
            **constants(x, a, b, form),
            **_constants(share, x, x),
            APART=gap != 0,
            **OPTIONS,
        )


def backward_into(
    dx: Tensor,
    dv: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    v: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
) -> tuple[Tensor, Tensor]:
    """Fills dx, dv, and y if given; returns the gradients of the coefficients.

    Arguments as in :func:`kat.ops.cpu.gated.backward_into`.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    share = _share(x, a, b, BACKWARD_PROGRAMS)
    x, v = _in_vectors(x, v, share)
    gap, out_gap = _gap(x, share), _gap(dx, share)
    sums = CoefficientSums(share, a, b)
    tensors = (grad, x, v, dx, dv, dx if y is None else y, a, b, *sums.tensors)
    common = {
        **constants(x, a, b, form),
        **_constants(share, x, dx),
        **sums.constants,
        "APART": gap != 0,
        "OUT_APART": out_gap != 0,
        "STORE_Y": y is not None,
        **OPTIONS,
    }
    with torch.cuda.device_of(x):
        for kernel in (gated_kernels.backward_kernel, gated_kernels.scaled_backward_kernel):
            kernel[(share.programs,)](
                *(*tensors, share.count, share.groups, share.run, gap, out_gap), **common
            )
        return sums.reduced(form)


def _share(x: Tensor, a: Tensor, b: Tensor, programs: int) -> Sharing:
    """The division of (rows, channels)."""
    groups = max(a.shape[0], b.shape[0])
    run, target = x.shape[1] // groups, programs * multiprocessors(x.device)
    return Sharing.of(x.numel(), groups, run, x.element_size(), target)


def _in_vectors(x: Tensor, v: Tensor, share: Sharing) -> tuple[Tensor, Tensor]:
    """x and v; copies of them if no whole number of vectors lies between two rows."""
    gap = x.stride(0) - x.shape[1]
    return (x, v) if gap >= 0 and gap % share.vector == 0 else (x.contiguous(), v.contiguous())


def _gap(rows: Tensor, share: Sharing) -> int:
    """The vectors between the end of a row and the next one."""
    return (rows.stride(0) - rows.shape[1]) // share.vector if len(rows) > 1 else 0


def _constants(share: Sharing, *tensors: Tensor) -> dict[str, Any]:
    """As :meth:`Sharing.constants`; WIDE also if an offset in rows that lie apart needs int64."""
    found = share.constants()
    reach = tensors[0].numel() + share.programs * LANES * share.vector
    widest = max(rows.stride(0) / rows.shape[1] for rows in tensors)
    return found | {"WIDE": found["WIDE"] or reach * widest >= INT32_ELEMENTS}
