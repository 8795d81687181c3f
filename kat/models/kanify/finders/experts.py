"""MLPs whose weights are those of many experts in one tensor, as in transformers' Mixtral."""

from __future__ import annotations

from torch import nn


def expert_widths(module: nn.Module) -> tuple[int, int, int, bool] | None:
    """(d_in, d_hidden, d_out, whether they are gated) of experts, None for any other module.

    Experts are a module with exactly two parameters of three dimensions: (E, k h, d) and (E, d, h),
    or both transposed; k is 2 if the experts are gated, and 1 if not.
    """
    stacked = [p.shape for p in module.parameters(recurse=False) if p.ndim == 3]
    if len(stacked) != 2 or stacked[0][0] != stacked[1][0]:
        return None
    for (out, d_in), (d_out, hidden) in (
        (stacked[0][1:], stacked[1][1:]),
        (stacked[0][:0:-1], stacked[1][:0:-1]),  # transposed
    ):
        if d_in == d_out and out in (hidden, 2 * hidden):
            return d_in, hidden, d_out, out == 2 * hidden
    return None
