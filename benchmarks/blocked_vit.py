"""The MLP of a ViT in the blocks of rows in which kat's run, to tell what blocks alone bring."""

from __future__ import annotations

import torch
from timm.layers import Mlp
from torch import Tensor

from kat.nn.blocks.sizes import block_rows


class MlpInBlocks(Mlp):
    """timm's Mlp with GELU; at inference in float32 or bfloat16, a block of rows at a time."""

    def forward(self, x: Tensor) -> Tensor:
        """fc2(GELU(fc1(x)))."""
        if torch.is_grad_enabled():
            return super().forward(x)
        autocasts = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocasts else x.dtype
        parameters = (self.fc1.bias, self.fc1.weight, self.fc2.bias, self.fc2.weight)
        b1, w1, b2, w2 = (parameter.to(dtype) for parameter in parameters)
        rows = x.reshape(-1, x.shape[-1])
        y = torch.empty(len(rows), len(w2), dtype=dtype)
        size = min(
            block_rows(max(x.shape[-1] * x.element_size(), len(w1) * dtype.itemsize)), len(rows)
        )
        space = torch.empty(size, len(w1), dtype=dtype)
        for start in range(0, len(rows), size):
            block = rows[start : start + size].to(dtype)
            hidden = torch.addmm(b1, block, w1.T, out=space[: len(block)])
            torch.ops.aten.gelu.out(hidden, out=hidden)
            torch.addmm(b2, hidden, w2.T, out=y[start : start + size])
        return y.view(*x.shape[:-1], -1)
