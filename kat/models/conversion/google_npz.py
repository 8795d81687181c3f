"""Google's ViTs in their .npz format, the weights of JAX models."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from kat.errors import InputError, first_line
from kat.files import check_input

PREPROCESSING = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}
"""The preprocessing of these ViTs."""


def read_google_vit(path: Path) -> tuple[VisionTransformer, tuple[str, ...]]:
    """Reads a ViT with timm's own loader.

    Returns:
        The model, and the names of the arrays that it has no use for.

    Raises:
        InputError: the file does not exist, is damaged, or is something else.
    """
    check_input(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            args = _vit_args(arrays)
            dropped = tuple(name for name in arrays.files if "pre_logits/" in name)
        model = VisionTransformer(**args, weight_init="skip")
        with torch.no_grad():
            model.load_pretrained(str(path))
    except (
        AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} is not a ViT in Google's .npz format, or not complete: {first_line(error)}"
        ) from None
    return model, dropped


def _vit_args(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the ``VisionTransformer`` with these weights."""
    (stem,) = [name for name in arrays if name.endswith("embedding/kernel")]
    prefix = stem.removesuffix("embedding/kernel")
    (positions,) = [arrays[name] for name in arrays if name.endswith("pos_embedding")]
    blocks = {match[0] for name in arrays if (match := re.search(r"/encoderblock_\d+/", name))}
    first = f"{prefix}Transformer/encoderblock_0"
    (query,) = [arrays[n] for n in arrays if re.fullmatch(rf"{first}/Multi.*/query/kernel", n)]
    (hidden,) = [arrays[n] for n in arrays if re.fullmatch(rf"{first}/Mlp.*/Dense_0/bias", n)]
    patch, _, channels, width = arrays[stem].shape
    class_token = f"{prefix}cls" in arrays
    count = positions.shape[-2]
    bare = math.isqrt(count) ** 2 == count
    pool = "map" if f"{prefix}MAPHead_0/probe" in arrays else "token" if class_token else "avg"
    return {
        "img_size": patch * math.isqrt(count if bare else count - 1),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": len(arrays[f"{prefix}head/bias"]) if f"{prefix}head/bias" in arrays else 0,
        "global_pool": pool,
        "fc_norm": False,
        "class_token": class_token,
        "no_embed_class": class_token and bare,
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": query.shape[1],
        "mlp_ratio": len(hidden) / width,
    }
