"""The dense models in timm's registry.

``kat_det_tiny``, ``_small``, ``_base`` and ``vit_det_...`` are detectors for images of 1024 pixels,
``kat_upernet_...`` and ``vit_upernet_...`` segmentation models for images of 512. Their patches
are of 16 pixels. The ``_micro`` ones, for images of 128 in patches of 8, train on a laptop's CPU in
minutes.

Examples:
    >>> import timm
    >>> import kat
    >>> timm.list_models("*kat_upernet*")
    ['kat_upernet_base', 'kat_upernet_micro', 'kat_upernet_small', 'kat_upernet_tiny']
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kat.models.dense.detector import KATDetector, ViTDetector
from kat.models.dense.upernet import KATUperNet, ViTUperNet
from kat.models.kat import IMAGENET_CONFIG, SIZES
from kat.models.timm_registry import register

_MICRO: dict[str, Any] = {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
_FEW_BOXES = {
    "rpn_pre_nms_top_n_train": 300,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 150,
    "rpn_post_nms_top_n_test": 100,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
}
_MICRO_BACKBONE: dict[str, Any] = {"img_size": 128, "window": 8, "global_blocks": [2, 5]}
_MICRO_DETECTOR: dict[str, Any] = {
    **_MICRO_BACKBONE,
    "channels": 64,
    "scales": [2.0, 1.0, 0.5],
    "anchor_scale": 6.0,
    "convolutions": 2,
    "hidden": 256,
    "rcnn": _FEW_BOXES,
}
_MICRO_UPERNET: dict[str, Any] = {
    **_MICRO_BACKBONE,
    "relative_position": True,
    "scales": [2.0, 1.0, 0.5, 0.25],
    "channels": 64,
    "auxiliary": 32,
}
_FAMILIES: dict[str, tuple[type[nn.Module], int, int, dict[str, Any]]] = {
    "kat_det": (KATDetector, 80, 1024, _MICRO_DETECTOR),
    "vit_det": (ViTDetector, 80, 1024, _MICRO_DETECTOR),
    "kat_upernet": (KATUperNet, 150, 512, _MICRO_UPERNET),
    "vit_upernet": (ViTUperNet, 150, 512, _MICRO_UPERNET),
}
"""Families: class, classes and side of the images at full size, options of the micro model."""

for _family, (_model_class, _classes, _side, _micro) in _FAMILIES.items():
    for _size, _args in {**SIZES, "micro": {**_MICRO, **_micro}}.items():
        _name, _sides = f"{_family}_{_size}", 2 * (128 if _size == "micro" else _side,)
        _cfg = {
            **IMAGENET_CONFIG,
            "num_classes": 10 if _size == "micro" else _classes,
            "input_size": (3, *_sides),
            "crop_pct": 1.0,
            "first_conv": "backbone.body.vit.patch_embed.proj",
            "classifier": None,
        }
        register(__name__, _name, _model_class, _args, {_name: _cfg})
