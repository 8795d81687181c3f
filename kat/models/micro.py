"""KATs for small images, 8x8 to 64x64, and baselines of the same size.

``kat_micro``, ``kat_glu_micro`` (its MLPs gated), ``vit_micro``, ``vit_swiglu_micro`` and
``vit_kan_micro`` have width 64, depth 4 and 4 heads, and take 32x32 images in patches of 4. The
suffixes ``_patch2_8``, ``_patch4_28``, ``_patch7_28`` and ``_patch8_64`` name other patches and
image sizes. ``vit_mlp_micro`` is another name for ``vit_micro``, as at the full sizes
(:mod:`kat.models.baselines`). KAT and ViT have about 0.2 M parameters and train on a laptop's CPU
in minutes.

Examples:
    >>> import timm
    >>> import kat
    >>> timm.list_models("kat_micro*_28")
    ['kat_micro_patch4_28', 'kat_micro_patch7_28']
"""

from __future__ import annotations

from kat.models.kat import IMAGENET_CONFIG, KAT, GatedKAT
from kat.models.timm_registry import register
from kat.models.vit import KANViT, SwiGLUViT, ViT

_HALF = (0.5, 0.5, 0.5)
_CONFIG = {**IMAGENET_CONFIG, "num_classes": 10, "crop_pct": 1.0, "mean": _HALF, "std": _HALF}

_SIZE = {"embed_dim": 64, "depth": 4, "num_heads": 4}
_GRIDS = {
    "_patch2_8": {"img_size": 8, "patch_size": 2},
    "_patch4_28": {"img_size": 28, "patch_size": 4},
    "_patch7_28": {"img_size": 28, "patch_size": 7},
    "": {"img_size": 32, "patch_size": 4},
    "_patch8_64": {"img_size": 64, "patch_size": 8},
}
_FAMILIES = {
    "kat": KAT,
    "kat_glu": GatedKAT,
    "vit": ViT,
    "vit_mlp": ViT,
    "vit_swiglu": SwiGLUViT,
    "vit_kan": KANViT,
}

for _family, _model_class in _FAMILIES.items():
    for _suffix, _grid in _GRIDS.items():
        _name, _side = f"{_family}_micro{_suffix}", _grid["img_size"]
        _cfg = {**_CONFIG, "input_size": (3, _side, _side)}
        register(__name__, _name, _model_class, {**_SIZE, **_grid}, {_name: _cfg})
