"""timm's transformer block for KATs: LayerNorm and the first rational run in one pass."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor

from kat.nn import GRKANMlp
from kat.nn.execution.layer import may_join
from kat.ops.torch_internals import is_patched


class KATBlock(Block):
    """x + attn(norm1(x)), then x + mlp(norm2(x)): timm's block, with its names and arguments.

    norm2 goes to a :class:`kat.nn.GRKANMlp` along with x, so that both run in one pass where they
    are no more than their formulas. Drop path and layer scale are timm's.

    Examples:
        >>> import torch
        >>> import kat
        >>> block = kat.models.KATBlock(64, num_heads=4, mlp_layer=kat.GRKANMlp)
        >>> block(torch.randn(2, 17, 64)).shape
        torch.Size([2, 17, 64])
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """x (B, N, C) to the same shape."""
        attention = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(attention))
        return x + self.drop_path2(self.ls2(mlp_of_norm(self, x)))


PLAIN_BLOCKS = (Block, KATBlock)
"""Blocks that compute what timm's does."""


def mlp_of_norm(block: Any, x: Tensor) -> Tensor:
    """``block.mlp(block.norm2(x))``.

    Where something traces or observes the MLP, its input is ``norm2(x)`` as in timm.
    """
    mlp = block.mlp
    if may_join(x) and type(mlp) is GRKANMlp and not is_patched(mlp):
        y: Tensor = mlp(x, norm=block.norm2)
    else:
        y = mlp(block.norm2(x))
    return y
