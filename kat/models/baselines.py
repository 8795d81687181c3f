"""ViTs of KAT's sizes with other MLPs, for comparisons at full size, and KATs with gated ones.

``vit_mlp_tiny_patch16_224`` is timm's ``vit_tiny_patch16_224`` with a choice of initialization, as
KAT has. ``vit_swiglu_...`` has SwiGLU MLPs with as many parameters, ``kat_glu_...`` gated GR-KAN
MLPs with as many, and ``vit_kan_...`` B-spline KAN layers. Sizes are tiny, small and base; the
micro ones are in :mod:`kat.models.micro`.

Examples:
    >>> import timm
    >>> import kat
    >>> timm.list_models("vit_kan_*_patch16_224")
    ['vit_kan_base_patch16_224', 'vit_kan_small_patch16_224', 'vit_kan_tiny_patch16_224']
"""

from __future__ import annotations

from timm.models import generate_default_cfgs

from kat.models.kat import IMAGENET_CONFIG, SIZES, GatedKAT
from kat.models.timm_registry import register_family
from kat.models.vit import KANViT, SwiGLUViT, ViT

_FAMILIES = {
    "kat_glu": GatedKAT,
    "vit_mlp": ViT,
    "vit_swiglu": SwiGLUViT,
    "vit_kan": KANViT,
}

default_cfgs = generate_default_cfgs(
    {f"{family}_{size}_patch16_224": IMAGENET_CONFIG for family in _FAMILIES for size in SIZES}
)

for _family, _model_class in _FAMILIES.items():
    register_family(
        _model_class,
        {f"{_family}_{size}_patch16_224": args for size, args in SIZES.items()},
        __name__,
    )
