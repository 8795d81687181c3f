"""Where a Vision Transformer looks: attention by block and head, and attention rollout.

For the queries Q and keys K of one head of width d (rows are tokens),

    P = softmax(Q K^T / sqrt(d))                    (T, T): row t is what token t attends to
    rollout = A_L ... A_2 A_1,  A = (mean of P over the heads + I) / 2

What is shown is the row of the token that the head of the model reads: the class token, or, where
the model averages its patches, the mean of their rows.

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

Visit = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class AttentionMaps:
    """What the read token of B images attends to, over a grid of h x w patches.

    All are probabilities; what falls on tokens that are no patches is left out, so that a map adds
    up to 1 or less.

    Args:
        blocks: (B, heads, h, w) by the name of the attention layer, in the order of the blocks.
        rollout: (B, h, w).
        tokens: how many there are, so that 1 / tokens is the attention of no preference.
        logits: (B, classes), what the model says of the images.
    """

    blocks: dict[str, Tensor]
    rollout: Tensor
    tokens: int
    logits: Tensor


def attention_maps(model: nn.Module, images: Tensor) -> AttentionMaps:
    """Runs a model, and keeps of each block's attention what is shown, not the (T, T) matrices.

    Args:
        model: a Vision Transformer of timm's; it is left as it was.
        images: (B, C, H, W), prepared as the model takes them.

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


@torch.no_grad()
def visit_attention(model: nn.Module, images: Tensor, visit: Visit) -> Tensor:
    """Runs a model in eval mode, and shows each block's attention as soon as it is there.

    Args:
        model: a Vision Transformer of timm's; its modes and hooks are left as they were.
        images: (B, C, H, W), prepared as the model takes them.
        visit: called with the name of each attention layer and its probabilities, (B, heads, T, T)
            float32; no more than one block's are held here.

    Returns:
        What the model returns, (B, classes).

    Raises:
        InputError: the model is of another kind, or has no attention layer of timm's usual kind.
    """
    modes = {module: module.training for module in model.modules()}
    layers = _attention_layers(check_attention(model))
    hooks = [
        layer.qkv.register_forward_hook(partial(_show, name, layer, visit))
        for name, layer in layers.items()
    ]
    try:
        return model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def _show(
    name: str, layer: Attention, visit: Visit, _: nn.Module, __: Any, projected: Tensor
) -> None:
    visit(name, attention_probabilities(layer, projected))


def attention_probabilities(layer: Attention, projected: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of a layer, which the fused product does not give.

    Args:
        layer: of timm's.
        projected: (B, T, 3 heads d), what its ``qkv`` gives.

    Returns:
        (B, heads, T, T), float32.
    """
    batch, tokens, _ = projected.shape
    split = projected.reshape(batch, tokens, 3, layer.num_heads, layer.head_dim)
    queries, keys, _ = split.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (layer.q_norm(queries) * layer.scale) @ layer.k_norm(keys).transpose(-2, -1)
    return scores.float().softmax(-1)


def check_attention(model: nn.Module) -> VisionTransformer:
    """The model, if its attention can be looked at.

    Raises:
        InputError: it is no Vision Transformer of timm's, or has no attention layer of its usual
            kind.
    """
    if not isinstance(model, VisionTransformer) or not _attention_layers(model):
        raise InputError(
            f"{type(model).__name__} has no attention to draw: that takes a Vision Transformer of"
            " timm's with its usual attention layers, a KAT or a ViT, not an exported file"
        )
    return model


def _attention_layers(model: nn.Module) -> dict[str, Attention]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Attention)}
