"""Models from trained ViTs: common weights are copied, and a KAT's act2 is fitted.

A KAT so made computes what the ViT does, up to the error of the fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp, create_act_layer, resample_abs_pos_embed
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.checkpoints.model_record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.weight_files import STEM, is_coefficient, load_weights
from kat.models.conversion.act2 import fit_act2, gr_kan_mlps
from kat.models.conversion.report import Conversion, Shape, movement
from kat.models.conversion.source import ViTSource, own_weights, rational_args, read_vit
from kat.models.dense import DenseModel
from kat.models.dense.attention import offsets_of_grid
from kat.models.kat import KAT
from kat.nn import GroupRational
from kat.nn.rational import set_coefficients
from kat.text import listing, numbered

_HEAD = ("head.weight", "head.bias")
_NO_PLACE = ("mask_token", "head_dist.", "pre_logits.")
_RELATIVE_POSITIONS = "backbone.body."
"""The prefix of the relative positions of a dense model, which fit any task."""
_NOISE_IMAGES = 8
_COMPARED = 10.0


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
    """Make a KAT that computes what a trained ViT does, up to the error of the fitted activation.

    LayerScale, registers, pooling and the like are built as in the source, unless that is a file
    of weights without a record: then ``args`` names them.

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
    record = make_record(found, name, args, num_classes, preprocessing)
    seen = images(record) if callable(images) else images
    model = build_model(record)
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
    """Return the record of the KAT that :func:`convert_vit` makes of the same arguments."""
    args = dict(args or {})
    channels = args.get("in_chans", source.weights[STEM].shape[1])
    recipe = registered_preprocessing(name, channels)
    size = args.get("img_size", recipe["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else size
    known = dict(source.preprocessing)
    for key in ("mean", "std"):
        if len(known.get(key, ())) != channels:
            known.pop(key, None)
    recipe |= {**known, **(preprocessing or {}), "input_size": (channels, height, width)}
    classes = source.classes
    if num_classes is not None and num_classes != len(classes):
        classes = numbered(num_classes)
    return ModelRecord(architecture=name, args={**source.args, **args}, classes=classes, **recipe)


def init_from_vit(
    model: nn.Module,
    source: str | Path | nn.Module | ViTSource,
    *,
    activation: str | None = None,
    images: Tensor | None = None,
    fit: bool = True,
) -> Conversion:
    """Initialize a model from a trained ViT, with all weights that the two have in common.

    Attention, norms, embeddings, fc1 and fc2 are the source's. Position and patch embeddings are
    resampled if their sizes differ, and the head is fresh if it has other classes. In a KAT, act1
    is the identity, and act2 of each block is fitted to the source's activation where its inputs
    are. A source that is a KAT itself also gives its rationals, to a model that computes them in
    the same way. A dense model gives its neck and heads to a model for the same task, as far as
    their shapes agree, and its relative positions to any dense model.

    Args:
        model: a KAT, another model in timm's ViT layout, or a dense model, whose transformer is
            initialized; class token, registers and classifier are then dropped.
        source: see :func:`kat.models.read_vit`.
        activation: the activation of a source that does not say, by timm's name; None:
            ``"gelu"``.
        images: (B, C, H, W), normalized, to record the activation's inputs and the outputs on;
            by default 8 images of normal noise.
        fit: whether to fit act2; False leaves it as it is.

    Returns:
        The report.

    Raises:
        InputError: the source does not exist; its weights are of another model or size, or not
            finite; it has another activation or other rationals. The model is then unchanged.

    Examples:
        >>> import kat
        >>> model = kat.models.create_model("kat_micro", num_classes=2, depth=2)
        >>> vit = kat.models.create_model("vit_micro", num_classes=1000, depth=2)
        >>> conversion = kat.models.init_from_vit(model, vit)
        >>> [name for name in conversion.fresh if "mlp" not in name]  # the head has other classes
        ['head.weight', 'head.bias']
    """
    found = source if isinstance(source, ViTSource) else read_vit(source)
    if not isinstance(model, DenseModel):
        return _init_transformer(model, found, activation, images, fit)
    found = found.for_grid()
    report = _init_transformer(model.transformer, found, activation, images, fit)
    own, heads = own_weights(model), {}
    for name, value in found.heads.items():
        if name in own and (found.task == model.task or name.startswith(_RELATIVE_POSITIONS)):
            if ".rel_pos_" in name and value.shape != own[name].shape:
                value = offsets_of_grid(value, (len(own[name]) + 1) // 2)
            if value.shape == own[name].shape:
                heads[name] = value
    model.load_state_dict(heads, strict=False)
    return replace(
        report,
        carried=[*report.carried, *heads],
        resized={**report.resized, **_resized(found.heads, heads)},
        dropped=[*report.dropped, *(name for name in found.heads if name not in heads)],
        fresh=[*report.fresh, *(name for name in own if name not in heads)],
    )


def _init_transformer(
    model: Any,
    source: ViTSource,
    activation: str | None,
    images: Tensor | None,
    fit: bool,
) -> Conversion:
    function = source.activation or create_act_layer(activation or "gelu")
    _check_same_functions(model, source, function)
    weights = _fit_to_model(source, model)
    fresh = [name for name in _HEAD if name in model.state_dict() and name not in weights]
    gone = (*_NO_PLACE, *(name for name in _HEAD if name not in weights))
    report = Conversion(
        source=source.name,
        carried=list(weights),
        resized=_resized(source.weights, weights),
        dropped=[*source.dropped, *(name for name in source.weights if name.startswith(gone))],
        fresh=fresh,
    )
    vit = _vit_twin(model, function) if isinstance(model, KAT) and not source.is_kat else model
    needs = f", which needs {source.args}," if source.args else ""
    load_weights(vit, weights, source=f"{source.name}{needs}", may_lack=frozenset(fresh))
    if vit is model:
        return report
    if images is None:
        height, width = model.patch_embed.img_size
        shape = (_NOISE_IMAGES, model.in_chans, height, width)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")
    images = images.to(model.patch_embed.proj.weight)
    fits = fit_act2(model, vit, function, images) if fit else []
    model.load_state_dict(weights, strict=False)
    mlps = list(gr_kan_mlps(model).values())
    for mlp in mlps:
        if isinstance(mlp.act1, GroupRational):
            mlp.act1.reset_parameters()
    for mlp, coefficients in zip(mlps, fits, strict=False):
        set_coefficients(mlp.act2, coefficients)
    return replace(
        report,
        fresh=[*fresh, *filter(is_coefficient, model.state_dict())],
        activation=type(function).__name__ if fit else None,
        half_widths=tuple(round(c.interval[1]) for c in fits),
        fit_error=max((c.max_error for c in fits), default=None),
        moved=movement(model, vit, images),
    )


def _check_same_functions(
    model: VisionTransformer, source: ViTSource, activation: nn.Module
) -> None:
    """Check that the conversion preserves the function.

    The shapes of weights do not tell of values that are not finite, heads, rationals and fixed
    activations.
    """
    weights = {**source.weights, **source.heads}
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{source.name} holds weights that are not finite: {listing(bad)}")
    blocks: list[Any] = list(model.blocks)
    own = {"num_heads": blocks[0].attn.num_heads, **rational_args(model)}
    given = {"num_heads": source.num_heads or own["num_heads"], **source.args}
    for name, value in own.items():
        if given.get(name, value) != value:
            raise InputError(
                f"{source.name} has {name}={given[name]!r} and the model {value!r}; build it with"
                f" {name}={given[name]!r}"
            )
    for block in blocks if source.activation and not source.is_kat else ():
        if type(block.mlp) is Mlp and not _are_equal(block.mlp.act, activation):
            raise InputError(
                f"the activation of {source.name} is {type(activation).__name__}, and the model's"
                f" {type(block.mlp.act).__name__}: build it with the act_layer of the source"
            )


@torch.no_grad()
def _are_equal(first: nn.Module, second: nn.Module) -> bool:
    """Return True if two activations are the same function."""
    x = torch.linspace(-_COMPARED, _COMPARED, 1001, device="cpu")
    one, other = (copy.deepcopy(act).cpu()(x.clone()) for act in (first, second))  # some in place
    return torch.allclose(one, other, rtol=0, atol=1e-6)


def _fit_to_model(source: ViTSource, model: VisionTransformer) -> dict[str, Tensor]:
    """Return the source's weights by the names and of the sizes of the model."""
    given = source.weights.items()
    weights = {name: value for name, value in given if not name.startswith("head_dist.")}
    if "dist_token" in weights:
        weights["reg_token"] = weights.pop("dist_token")
    own, grid = model.state_dict(), tuple(model.patch_embed.grid_size)
    if source.grid not in (None, grid) and "pos_embed" in weights:
        positions = weights["pos_embed"]
        weights["pos_embed"] = resample_abs_pos_embed(
            positions,
            list(grid),
            list(source.grid),
            num_prefix_tokens=positions.shape[1] - math.prod(source.grid),
        )
    weights = checkpoint_filter_fn(weights, model, adapt_layer_scale=True)
    channels = own[STEM].shape[1]
    if weights[STEM].shape[1] != channels:
        weights[STEM] = adapt_input_conv(channels, weights[STEM])
    head = {name: own[name].shape for name in _HEAD if name in own}
    if head != {name: weights[name].shape for name in _HEAD if name in weights}:
        weights = {name: value for name, value in weights.items() if name not in _HEAD}
    return weights


def _resized(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, tuple[Shape, Shape]]:
    resized = {}
    for name, value in own.items():
        before = given.get(name, value).shape
        if before != value.shape:
            resized[name] = (tuple(before), tuple(value.shape))
    return resized


def _vit_twin(model: KAT, activation: nn.Module) -> KAT:
    """Return a copy of a KAT as a ViT: with timm's MLPs and this activation."""
    twin = copy.deepcopy(model).eval()
    for index, mlp in gr_kan_mlps(model).items():
        fixed = Mlp(
            mlp.fc1.in_features,
            mlp.fc1.out_features,
            mlp.fc2.out_features,
            bias=mlp.fc1.bias is not None,
        )
        fixed.act, fixed.norm = copy.deepcopy(activation), copy.deepcopy(mlp.norm)
        twin.blocks[index].mlp = fixed.to(mlp.fc1.weight).eval()
    return twin
