"""Initialization of a model from a trained ViT: common weights are copied, activations fitted."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp, create_act_layer, resample_abs_pos_embed
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError, first_line
from kat.models.checkpoints.state_dict import STEM, is_coefficient, load_weights
from kat.models.conversion.activation_fit import fit_activation, half_widths, movement, plain_twin
from kat.models.conversion.report import Conversion, Shape
from kat.models.conversion.source import ViTSource, read_vit
from kat.models.conversion.vit_args import rational_args
from kat.models.dense import DenseHeads, DenseModel
from kat.models.kat import KAT
from kat.nn import Coefficients, GRKANMlp, GroupRational
from kat.nn.rational import set_coefficients
from kat.text import counted, listing

_HEAD = ("head.weight", "head.bias")
_NO_PLACE = ("mask_token", "head_dist.", "pre_logits.")
_NOISE_IMAGES = 8
_COMPARED = 10.0


def init_from_vit(
    model: nn.Module,
    source: str | Path | nn.Module | ViTSource,
    *,
    activation: str | None = None,
    images: Tensor | None = None,
    fit: bool = True,
) -> Conversion:
    """Initializes a model from a trained ViT, with all weights that the two have in common.

    Attention, norms, embeddings, fc1 and fc2 are the source's. Position and patch embeddings are
    resampled if their sizes differ, and the head is fresh if it has other classes. In a KAT, act1
    is the identity, and act2 of each block is fitted to the source's activation where its inputs
    are. A source that is a KAT itself also gives its rationals, to a model that computes them in
    the same way. A dense model gives its neck and heads to a model for the same task, except what
    has a part for each class if the classes differ.

    Args:
        model: a KAT, another model in timm's ViT layout, or a dense model, whose transformer is
            initialized; class token, registers and classifier are then dropped.
        source: see :func:`kat.models.read_vit`.
        activation: the source's activation, by timm's name, if the source does not say;
            None: ``"gelu"``.
        images: (B, C, H, W), normalized, to record the activation's inputs and the outputs on;
            by default 8 images of normal noise.
        fit: whether to fit act2; False leaves it as it is.

    Returns:
        The report.

    Raises:
        InputError: the source does not exist; its weights are not those of a ViT of this size, or
            not finite; it has another activation or other rationals; outputs are not finite. The
            model is then unchanged.

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
    heads = {} if found.heads is None else found.heads.fitted_to(model, found.name)
    report = _init_transformer(model.transformer, found, activation, images, fit)
    model.load_state_dict(heads, strict=False)
    given = {} if found.heads is None else found.heads.weights
    return replace(
        report,
        carried=[*report.carried, *heads],
        resized={**report.resized, **_resized(given, heads)},
        dropped=[*report.dropped, *(name for name in given if name not in heads)],
        fresh=[*report.fresh, *(n for n in DenseHeads.of(model).weights if n not in heads)],
    )


def _init_transformer(
    model: nn.Module,
    source: ViTSource,
    activation: str | None,
    images: Tensor | None,
    fit: bool,
) -> Conversion:
    if not isinstance(model, VisionTransformer):
        raise InputError(f"a {type(model).__name__} cannot start from a ViT: it is not one")
    _check_finite(source)
    _check_size(model, source)
    _check_rationals(model, source)
    function = _activation(activation, source)
    if not source.is_kat and (activation is not None or source.activation is not None):
        _check_activation(model, source, function)
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
    if isinstance(model, KAT) and not source.is_kat:
        return _init_kat(model, weights, source, function, images, fit, report)
    _load(model, weights, source, fresh)
    return report


def _init_kat(
    model: KAT,
    weights: Mapping[str, Tensor],
    source: ViTSource,
    activation: nn.Module,
    images: Tensor | None,
    fit: bool,
    report: Conversion,
) -> Conversion:
    """Initializes a KAT from a ViT, and measures how far its outputs moved."""
    vit = plain_twin(model, activation)
    _load(vit, weights, source, report.fresh)
    own = model.state_dict()
    images = (_noise(model) if images is None else images).to(own[STEM])
    fits = _fit_rationals(model, vit, activation, images) if fit else []
    fresh = [*report.fresh, *filter(is_coefficient, own)]
    made = copy.deepcopy(model)  # the model itself changes only when nothing can fail any more
    _load(made, weights, source, fresh)
    for mlp in _mlps(made).values():
        if isinstance(mlp.act1, GroupRational):
            mlp.act1.reset_parameters()
    for mlp, coefficients in zip(_mlps(made).values(), fits, strict=False):
        set_coefficients(mlp.act2, coefficients)
    moved = movement(made, vit, images)
    model.load_state_dict(made.state_dict())
    return replace(
        report,
        fresh=fresh,
        activation=type(activation).__name__ if fit else None,
        half_widths=tuple(round(c.interval[1]) for c in fits),
        fit_error=max((c.max_error for c in fits), default=None),
        moved=moved,
    )


def _check_finite(source: ViTSource) -> None:
    weights = {**source.weights, **({} if source.heads is None else source.heads.weights)}
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise InputError(
            f"{source.name} holds weights that are not finite, in {counted(len(bad), 'tensor')}:"
            f" {listing(bad)}"
        )


def _check_size(model: VisionTransformer, source: ViTSource) -> None:
    """Raises InputError for another width, or number of heads, with which only shapes would fit."""
    block: Any = model.blocks[0]
    width = source.weights["norm.weight"].shape[0] if "norm.weight" in source.weights else None
    if width not in (None, model.embed_dim):
        raise InputError(
            f"{source.name} is {width} wide and the model {model.embed_dim}: take a model of that"
            f" width (kat_tiny_* 192, kat_small_* 384, kat_base_* 768)"
        )
    if source.num_heads not in (None, block.attn.num_heads):
        raise InputError(
            f"{source.name} has {source.num_heads} heads and the model {block.attn.num_heads};"
            f" build it with num_heads={source.num_heads}"
        )


def _check_rationals(model: VisionTransformer, source: ViTSource) -> None:
    """Raises InputError for rationals that are other functions of the same coefficients."""
    for name, own in rational_args(model).items():
        given = source.args.get(name, own)  # a file of weights alone names none
        if given != own:
            raise InputError(
                f"the rationals of {source.name} have {name}={given!r} and the model's {own!r};"
                f" build it with {name}={given!r}"
            )


def _activation(name: str | None, source: ViTSource) -> nn.Module:
    """The source's activation, which must agree with the name if both are known."""
    own = source.activation
    if name is None:
        return create_act_layer("gelu") if own is None else own
    try:
        named = create_act_layer(name)
    except (AssertionError, LookupError, TypeError):
        raise InputError(
            f"unknown activation {name!r}; give a name of timm's, e.g. gelu, gelu_tanh,"
            " quick_gelu, silu, relu, mish, tanh"
        ) from None
    if source.is_kat:
        raise InputError(f"{source.name} is a KAT with rationals of its own; omit activation")
    if own is None:
        return named
    if not _are_equal(named, own):
        raise InputError(
            f"the activation of {source.name} is {type(own).__name__}, not {name!r}; omit"
            " activation"
        )
    return own


def _check_activation(model: VisionTransformer, source: ViTSource, activation: nn.Module) -> None:
    """Raises InputError for a block whose MLP has another fixed activation than the source's."""
    for index, block in enumerate(model.blocks):
        own = block.mlp.act if type(block.mlp) is Mlp else activation
        if not _are_equal(own, activation):
            raise InputError(
                f"the activation of {source.name} is {type(activation).__name__}, and that of block"
                f" {index} of the model {type(own).__name__}: build the model with the act_layer of"
                " the source"
            )


@torch.no_grad()
def _are_equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two activations are the same function."""
    x = torch.linspace(-_COMPARED, _COMPARED, 1001, device="cpu")
    one, other = (copy.deepcopy(act).cpu()(x.clone()) for act in (first, second))  # some in place
    return torch.allclose(one, other, rtol=0, atol=1e-6)


def _fit_to_model(source: ViTSource, model: VisionTransformer) -> dict[str, Tensor]:
    """The source's weights by the names and of the sizes of the model."""
    weights = {
        "reg_token" if name == "dist_token" else name: value
        for name, value in source.weights.items()
        if not name.startswith("head_dist.")
    }
    own = model.state_dict()
    grid = tuple(model.patch_embed.grid_size)
    try:
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
    except (
        AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, ValueError
    ) as error:  # fmt: skip
        raise InputError(
            f"{source.name} cannot be resampled to the model's sizes: {first_line(error)}"
        ) from None
    head = [name for name in _HEAD if name in weights]
    if any(name not in own or own[name].shape != weights[name].shape for name in head):
        weights = {name: value for name, value in weights.items() if name not in head}
    return weights


def _resized(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, tuple[Shape, Shape]]:
    return {
        name: (tuple(given[name].shape), tuple(own[name].shape))
        for name in own
        if name in given and given[name].shape != own[name].shape
    }


def _load(
    model: nn.Module, weights: Mapping[str, Tensor], source: ViTSource, fresh: Sequence[str]
) -> None:
    try:
        load_weights(model, weights, source=source.name, may_lack=frozenset(fresh))
    except InputError as error:
        needs = f"; the source needs a model with {source.args}" if source.args else ""
        raise InputError(f"{error}{needs}") from None


def _noise(model: VisionTransformer) -> Tensor:
    height, width = model.patch_embed.img_size
    shape = (_NOISE_IMAGES, model.in_chans, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")


def _mlps(model: KAT) -> dict[int, GRKANMlp]:
    """The GR-KAN MLPs, by the number of their block."""
    blocks: list[Any] = list(model.blocks)
    return {i: b.mlp for i, b in enumerate(blocks) if isinstance(b.mlp, GRKANMlp)}


def _fit_rationals(
    model: KAT, vit: VisionTransformer, activation: nn.Module, images: Tensor
) -> list[Coefficients]:
    """The coefficients of each act2: a fit to the activation where its inputs are."""
    mlps = _mlps(model)
    if not mlps:
        return []
    act2 = next(iter(mlps.values())).act2
    of_blocks = half_widths(vit, images)
    widths = [of_blocks[block] for block in mlps]
    fits = {r: fit_activation(activation, r, act2.degree, act2.form) for r in sorted(set(widths))}
    return [fits[r] for r in widths]
