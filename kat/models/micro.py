"""KATs for small images, 8x8 to 64x64, and plain ViTs of the same size to compare them with.

Width 64, depth 4, 4 heads: about 0.2 M parameters, trainable on a laptop's CPU in minutes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from kat.models.kat import KAT, Transformer, build_transformer

_CONFIG = {
    "num_classes": 10,
    "pool_size": None,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "mit",
}

_SIZE = {"embed_dim": 64, "depth": 4, "num_heads": 4}
_GRIDS = {
    "_patch2_8": {"img_size": 8, "patch_size": 2},
    "_patch4_28": {"img_size": 28, "patch_size": 4},
    "": {"img_size": 32, "patch_size": 4},
    "_patch8_64": {"img_size": 64, "patch_size": 8},
}

default_cfgs = generate_default_cfgs(
    {
        f"{family}_micro{suffix}": _CONFIG | {"input_size": (3, grid["img_size"], grid["img_size"])}
        for family in ("kat", "vit")
        for suffix, grid in _GRIDS.items()
    }
)


def _micro(
    model_class: type[Transformer],
    family: str,
    suffix: str,
    pretrained: bool,
    kwargs: dict[str, Any],
) -> Transformer:
    args = {**_SIZE, **_GRIDS[suffix], **kwargs}
    return build_transformer(model_class, f"{family}_micro{suffix}", pretrained, **args)


_kat_micro = partial(_micro, KAT, "kat")
_vit_micro = partial(_micro, VisionTransformer, "vit")


@register_model
def kat_micro(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT of width 64 and depth 4, for 32x32 images in patches of 4 unless told otherwise."""
    return _kat_micro("", pretrained, kwargs)


@register_model
def kat_micro_patch2_8(pretrained: bool = False, **kwargs: Any) -> KAT:
    """kat_micro for 8x8 images in patches of 2."""
    return _kat_micro("_patch2_8", pretrained, kwargs)


@register_model
def kat_micro_patch4_28(pretrained: bool = False, **kwargs: Any) -> KAT:
    """kat_micro for 28x28 images in patches of 4."""
    return _kat_micro("_patch4_28", pretrained, kwargs)


@register_model
def kat_micro_patch8_64(pretrained: bool = False, **kwargs: Any) -> KAT:
    """kat_micro for 64x64 images in patches of 8."""
    return _kat_micro("_patch8_64", pretrained, kwargs)


@register_model
def vit_micro(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The plain ViT of kat_micro's width and depth, with timm's GELU MLP."""
    return _vit_micro("", pretrained, kwargs)


@register_model
def vit_micro_patch2_8(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """vit_micro for 8x8 images in patches of 2."""
    return _vit_micro("_patch2_8", pretrained, kwargs)


@register_model
def vit_micro_patch4_28(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """vit_micro for 28x28 images in patches of 4."""
    return _vit_micro("_patch4_28", pretrained, kwargs)


@register_model
def vit_micro_patch8_64(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """vit_micro for 64x64 images in patches of 8."""
    return _vit_micro("_patch8_64", pretrained, kwargs)
