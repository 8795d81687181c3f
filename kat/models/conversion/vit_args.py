"""The arguments of a Vision Transformer, inferred from its weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from timm.layers import LayerNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from kat.nn import GatedGRKANMlp, GRKANMlp, GroupRational

REGISTERS = ("reg_token", "register_tokens", "dist_token")
"""The names of tokens that attention sees and the classifier does not."""

_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(VisionTransformer).parameters.items()
} | {"norm_eps": LayerNorm(1).eps}


def vit_args(
    weights: Mapping[str, Tensor], model: VisionTransformer | None = None
) -> dict[str, Any]:
    """The arguments of :class:`kat.models.ViT` that a ViT's weights need; {} for a plain ViT.

    A distillation token becomes a register. The number of heads and the sizes of images and patches
    are not included.

    Args:
        weights: by the names of timm's ViT, or of DeiT III's or DINOv2's authors.
        model: the model, if it is known; otherwise its pooling is inferred from the norms.
    """

    def has(*names: str) -> bool:
        return any(name in weights for name in names)

    registers = sum(weights[name].shape[1] for name in REGISTERS if name in weights)
    prefix = registers + has("cls_token")
    if model is None:
        bare = has("register_tokens") or _is_bare_grid(weights.get("pos_embed"), prefix)
        pool, eps = _pool(weights), _DEFAULTS["norm_eps"]
    else:
        bare, pool = model.no_embed_class, model.global_pool
        block: Any = model.blocks[0]
        eps = block.norm1.eps
    args: dict[str, Any] = {
        "init_values": 1e-5 if has("blocks.0.ls1.gamma", "blocks.0.gamma_1") else None,
        "reg_tokens": registers,
        "class_token": has("cls_token"),
        "no_embed_class": bare and prefix > 0,
        "pos_embed": "learn" if has("pos_embed") else "none",
        "global_pool": pool,
        "fc_norm": has("fc_norm.weight") if pool == "avg" or has("fc_norm.weight") else None,
        "pool_include_prefix": model is not None and model.pool_include_prefix,
        "pre_norm": has("norm_pre.weight"),
        "final_norm": has("norm.weight", "fc_norm.weight"),
        "qkv_bias": has("blocks.0.attn.qkv.bias"),
        "proj_bias": has("blocks.0.attn.proj.bias"),
        "qk_norm": has("blocks.0.attn.q_norm.weight"),
        "scale_attn_norm": has("blocks.0.attn.norm.weight"),
        "scale_mlp_norm": has("blocks.0.mlp.norm.weight"),
        "norm_eps": eps,
    }
    return {name: value for name, value in args.items() if value != _DEFAULTS[name]}


def rational_args(model: VisionTransformer) -> dict[str, Any]:
    """The arguments of a KAT that determine the functions of its coefficients; {} for a ViT.

    Weights alone do not distinguish form A from form B.
    """
    blocks: list[Any] = list(model.blocks)
    mlps = [block.mlp for block in blocks if isinstance(block.mlp, (GRKANMlp, GatedGRKANMlp))]
    if not mlps:
        return {}
    mlp = mlps[0]
    act: Any = mlp.act2 if isinstance(mlp, GRKANMlp) else mlp.act
    args: dict[str, Any] = {}
    if isinstance(mlp, GRKANMlp) and not isinstance(mlp.act1, GroupRational):
        args["first_init"] = "none"
    return {
        **args,
        "num_groups": getattr(mlp, "num_groups", act.num_groups),
        "degree": list(act.degree),
        "form": act.form,
        "share": act.share,
    }


def _pool(weights: Mapping[str, Tensor]) -> str:
    if "attn_pool.latent" in weights:
        return "map"
    return "token" if "cls_token" in weights and "fc_norm.weight" not in weights else "avg"


def _is_bare_grid(positions: Tensor | None, prefix: int) -> bool:
    """Whether the positions are those of a square of patches, without the prefix tokens."""
    if positions is None:
        return False
    count = positions.shape[1]
    return math.isqrt(count) ** 2 == count and math.isqrt(count - prefix) ** 2 != count - prefix
