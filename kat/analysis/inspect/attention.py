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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.evaluation_mode import evaluation_mode

Visit = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of the token that is read, for B images over a grid of h x w patches.

    All values are probabilities. Those of tokens other than patches are left out, so that a map
    sums to at most 1.

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


def attention_maps(model: nn.Module, images: Tensor) -> AttentionMaps:
    """Runs a model, and keeps the maps of each block, not the (T, T) matrices.

    Args:
        model: a Vision Transformer of timm; it is left unchanged.
        images: (B, C, H, W), normalized.

    Raises:
        InputError: the model is of another kind, or has no attention layer of timm's usual kind.
    """
    transformer = check_attention(model)
    prefix = transformer.num_prefix_tokens
    read = slice(0, 1) if transformer.global_pool == "token" else slice(prefix, None)
    height, width = images.shape[-2:]
    grid = transformer.patch_embed.dynamic_feat_size((height, width))
    tokens = prefix + math.prod(grid)
    rollout = torch.eye(tokens, device=images.device)
    blocks: dict[str, Tensor] = {}

    def shown(matrices: Tensor) -> Tensor:
        return matrices[..., read, prefix:].mean(-2).unflatten(-1, grid)

    def visit(name: str, probabilities: Tensor) -> None:
        nonlocal rollout
        blocks[name] = shown(probabilities)
        rollout = (probabilities.mean(1) @ rollout + rollout) / 2

    logits = visit_attention(transformer, images, visit)
    return AttentionMaps(blocks, shown(rollout), tokens, logits)


def visit_attention(model: nn.Module, images: Tensor, visit: Visit) -> Tensor:
    """Runs a model in eval mode, and passes on the attention of each block as it is computed.

    Args:
        model: a Vision Transformer of timm; its modes and hooks are left unchanged.
        images: (B, C, H, W), normalized.
        visit: called with the name of each attention layer and its probabilities, (B, heads, T, T)
            float32; only those of one block are held at a time.

    Returns:
        The output of the model, (B, classes).

    Raises:
        InputError: the model is of another kind, or has no attention layer of timm's usual kind.
    """
    layers = _attention_layers(check_attention(model))
    hooks = [
        layer.qkv.register_forward_hook(partial(_show, name, layer, visit))
        for name, layer in layers.items()
    ]
    try:
        with evaluation_mode(model):
            return model(images)
    finally:
        for hook in hooks:
            hook.remove()


def _show(
    name: str, layer: Attention, visit: Visit, _: nn.Module, __: Any, projected: Tensor
) -> None:
    visit(name, attention_probabilities(layer, projected))


def attention_probabilities(layer: Attention, projected: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of a layer, which the fused kernel does not return.

    Args:
        layer: timm's layer.
        projected: (B, T, 3 heads d), the output of its ``qkv``.

    Returns:
        (B, heads, T, T), float32.
    """
    batch, tokens, _ = projected.shape
    split = projected.reshape(batch, tokens, 3, layer.num_heads, layer.head_dim)
    queries, keys, _ = split.permute(2, 0, 3, 1, 4).unbind(0)
    products = (layer.q_norm(queries) * layer.scale) @ layer.k_norm(keys).transpose(-2, -1)
    return products.float().softmax(-1)


def check_attention(model: nn.Module) -> VisionTransformer:
    """Returns the model if its attention can be drawn.

    Raises:
        InputError: it is no Vision Transformer of timm, or has no attention layer of the usual
            kind.
    """
    if not isinstance(model, VisionTransformer) or not _attention_layers(model):
        raise InputError(
            f"{type(model).__name__} has no attention to draw: that takes a Vision Transformer with"
            " timm's usual attention layers, such as a KAT or a ViT, and not an exported file"
        )
    return model


def _attention_layers(model: nn.Module) -> dict[str, Attention]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Attention)}
