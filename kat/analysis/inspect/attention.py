"""The attention of a Vision Transformer by block and head, and attention rollout.

For the queries Q and keys K of one head of width d (rows are tokens),

    P = softmax(Q K^T / sqrt(d))                    (T, T): row t is what token t attends to
    rollout = A_L ... A_2 A_1,  A = (mean of P over the heads + I) / 2

The maps show the row of the token that the classifier reads: the class token, or, for a model that
averages its patches, the mean of their rows.

Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract
from torch import Tensor, nn

from kat.errors import InputError


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of the token that is read, for B images over a grid of h x w patches.

    All values are probabilities. Tokens other than patches are left out, so that a map sums to at
    most 1.

    Args:
        blocks: (B, heads, h, w) by name of the attention layer, in the order of the blocks.
        rollout: (B, h, w).
        tokens: their number; 1 / tokens is uniform attention.
        logits: (B, classes), the output of the model.
    """

    blocks: dict[str, Tensor]
    rollout: Tensor
    tokens: int
    logits: Tensor


@torch.no_grad()
def attention_maps(model: VisionTransformer, images: Tensor) -> AttentionMaps:
    """Run a copy of a model in eval mode, and keep the maps of each block.

    Args:
        model: it is left unchanged; see :func:`check_attention`.
        images: (B, C, H, W), normalized.
    """
    transformer = deepcopy(model)
    layers: list[Any] = [m for m in transformer.modules() if isinstance(m, Attention)]
    for layer in layers:
        layer.fused_attn = False  # the fused kernel returns no probabilities
    found = AttentionExtract(transformer, ["*attn_drop", "head"], method="hook")(images)
    logits = found.pop("head")
    prefix = transformer.num_prefix_tokens
    read = slice(0, 1) if transformer.global_pool == "token" else slice(prefix, None)
    height, width = images.shape[-2:]
    grid = transformer.patch_embed.dynamic_feat_size((height, width))
    tokens = prefix + math.prod(grid)
    rollout = torch.eye(tokens, device=images.device)

    def shown(matrices: Tensor) -> Tensor:
        return matrices[..., read, prefix:].mean(-2).unflatten(-1, grid)

    blocks = {}
    for name, probabilities in found.items():
        blocks[name.removesuffix(".attn_drop")] = shown(probabilities.float())
        rollout = (probabilities.float().mean(1) @ rollout + rollout) / 2
    return AttentionMaps(blocks, shown(rollout), tokens, logits)


def check_attention(model: nn.Module) -> VisionTransformer:
    """Return the model if its attention can be drawn.

    Raises:
        InputError: it is no Vision Transformer of timm, or has no attention layer of the usual
            kind.
    """
    usual = any(isinstance(module, Attention) for module in model.modules())
    if not isinstance(model, VisionTransformer) or not usual:
        raise InputError(
            f"{type(model).__name__} has no attention to draw: that takes a Vision Transformer with"
            " timm's usual attention layers, such as a KAT or a ViT, and not an exported file"
        )
    return model
