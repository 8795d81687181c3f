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

from kat.models.kat import IMAGENET_CONFIG, SIZES, GatedKAT
from kat.models.timm_registry import register
from kat.models.vit import KANViT, SwiGLUViT, ViT

_FAMILIES = {"kat_glu": GatedKAT, "vit_mlp": ViT, "vit_swiglu": SwiGLUViT, "vit_kan": KANViT}

for _family, _model_class in _FAMILIES.items():
    for _size, _args in SIZES.items():
        _name = f"{_family}_{_size}_patch16_224"
        register(__name__, _name, _model_class, _args, {_name: IMAGENET_CONFIG})
