"""ViTs of KAT's sizes with other MLPs, for comparisons at full size.

``vit_mlp_tiny_patch16_224`` is timm's ``vit_tiny_patch16_224`` whose initialisation can be chosen
as KAT's, ``vit_swiglu_...`` has SwiGLU at equal parameters and ``vit_kan_...`` B-spline KAN layers;
tiny, small and base. The small ones are in :mod:`kat.models.micro`.
"""

from __future__ import annotations

from timm.models import generate_default_cfgs

from kat.models.kat import BASE, IMAGENET_CONFIG, SMALL, TINY, register_family
from kat.models.vit import KANViT, SwiGLUViT, ViT

_SIZES = {"tiny": TINY, "small": SMALL, "base": BASE}
_FAMILIES = {"vit_mlp": ViT, "vit_swiglu": SwiGLUViT, "vit_kan": KANViT}

default_cfgs = generate_default_cfgs(
    {f"{family}_{size}_patch16_224": IMAGENET_CONFIG for family in _FAMILIES for size in _SIZES}
)

for _family, _model_class in _FAMILIES.items():
    register_family(
        _model_class,
        {f"{_family}_{size}_patch16_224": {**args} for size, args in _SIZES.items()},
        __name__,
    )
