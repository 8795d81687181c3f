"""Making a KAT of a ViT: the record of the KAT, its weights, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from kat.errors import InputError, unknown
from kat.models.checkpoints.model_record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.state_dict import STEM
from kat.models.conversion.initialize import init_from_vit
from kat.models.conversion.report import Conversion
from kat.models.conversion.source import ViTSource, read_vit
from kat.models.kat import KAT
from kat.text import numbered


def convert_vit(
    source: str | Path | nn.Module | ViTSource,
    name: str,
    *,
    args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    activation: str | None = None,
    images: Tensor | Callable[[ModelRecord], Tensor] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, ModelRecord, Conversion]:
    """Makes a KAT that computes what a trained ViT does, up to the error of the fitted activation.

    LayerScale, registers, pooling and the like are built as in the source.

    Args:
        source: see :func:`kat.models.read_vit`.
        name: the name of the KAT in timm's registry, e.g. ``"kat_tiny_patch16_224"``.
        args: further arguments of its constructor; they override what the source needs. With an
            ``act_init``, act2 starts as that and is not fitted.
        num_classes: the source's by default; with another number the head is fresh.
        activation, images: see :func:`init_from_vit`. Images may also be a function of the KAT's
            record, which loads them.
        preprocessing: fields of the record (``mean``, ``std``) that override the source's.

    Returns:
        The KAT, in evaluation mode; its record, with the source's preprocessing if it is known,
        otherwise the KAT's own; and the report.

    Raises:
        InputError: the source or the model does not exist, or they do not fit each other.

    Examples:
        >>> import torch
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> model, record, conversion = kat.models.convert_vit(vit, "kat_micro")
        >>> x = torch.randn(2, 3, 32, 32)
        >>> bool((model(x) - vit(x)).abs().max() < 0.05 * vit(x).abs().max())
        True
    """
    found = source if isinstance(source, ViTSource) else read_vit(source)
    if found.heads is not None:
        raise InputError(f"{found.name} is for {found.heads.task}: only classifiers are converted")
    record = make_record(found, name, args, num_classes, preprocessing)
    seen = images(record) if callable(images) else images
    model = build_model(record)
    if not isinstance(model, KAT):
        raise InputError(f"{name!r} is a {type(model).__name__}; give the name of a KAT")
    fit = "act_init" not in (args or {})
    report = init_from_vit(model, found, activation=activation, images=seen, fit=fit)
    return model.eval(), record, report


def make_record(
    source: ViTSource,
    name: str,
    args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> ModelRecord:
    """The record of the KAT that :func:`convert_vit` makes of the same arguments."""
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models("*kat*"))
    args = dict(args or {})
    recipe = registered_preprocessing(name)
    height, width = _sides(args.get("img_size", recipe["input_size"][1:]))
    channels = args.get("in_chans", source.weights[STEM].shape[1])
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"in_chans must be a number of channels, got {channels!r}")
    if channels != len(recipe["mean"]):
        recipe |= {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    kept = {
        name: value
        for name, value in source.preprocessing.items()
        if name not in ("mean", "std") or len(value) == channels
    }
    recipe |= {**kept, **(preprocessing or {})}
    recipe |= {"input_size": (channels, height, width)}
    classes = source.classes
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    if num_classes is not None and num_classes != len(classes):
        classes = numbered(num_classes)
    return ModelRecord(architecture=name, args={**source.args, **args}, classes=classes, **recipe)


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of images of this ``img_size``."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
        raise InputError(f"img_size must be a side in pixels or (height, width), got {size!r}")
    return sides[0], sides[1]
