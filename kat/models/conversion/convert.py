"""ViT to KAT: all that the two have in common is carried over, the activation is fitted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import create_act_layer
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError, first_line, unknown
from kat.models.checkpoints.model_record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.state_dict import is_coefficient, load_weights
from kat.models.conversion.activation_fit import (
    Movement,
    fit_activation,
    half_widths,
    movement,
    plain_twin,
)
from kat.models.conversion.source import ViTSource, rational_args, read_vit
from kat.models.dense import DenseHeads, DenseModel
from kat.models.kat import KAT
from kat.nn import Coefficients, GRKANMlp, GroupRational

_HEAD = ("head.weight", "head.bias")
_STEM = "patch_embed.proj.weight"
_NO_PLACE = ("mask_token", "head_dist.", "pre_logits.")
_NOISE_IMAGES = 8
_COMPARED = 10.0


@dataclass(frozen=True)
class Conversion:
    """What became of the weights of a ViT.

    Args:
        source: the ViT.
        carried: names of the parameters that are the source's.
        resized: those of them that were resampled: name to (shape there, shape here).
        dropped: entries of the source that the model has no place for.
        fresh: names of the parameters that are not the source's: rationals, a head of other
            classes.
        activation: the source's, which act2 was fitted to; None where it was not.
        half_widths: r of the interval [-r, r] of the fit, a number a block.
        fit_error: the largest |act2 - activation| on these intervals.
        moved: how far the outputs are from the source's, resized alike; None where there was
            nothing to fit.
    """

    source: str
    carried: list[str]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dropped: list[str]
    fresh: list[str]
    activation: str | None = None
    half_widths: tuple[int, ...] = ()
    fit_error: float | None = None
    moved: Movement | None = None

    def summary(self) -> str:
        """The report in a line."""
        counts = {"carried": self.carried, "resized": self.resized, "dropped": self.dropped}
        parts = [f"{len(names)} {kind}" for kind, names in {**counts, "fresh": self.fresh}.items()]
        if self.moved is not None:
            parts.append(f"outputs moved by {self.moved.max:.1e} (max), {self.moved.rms:.1e} (RMS)")
        return f"from {self.source}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return asdict(self)


def convert_vit(
    source: str | Path | nn.Module | ViTSource,
    name: str,
    *,
    args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    activation: str | None = None,
    images: Tensor | None = None,
) -> tuple[nn.Module, ModelRecord, Conversion]:
    """Makes a KAT that computes what a trained ViT does, to the error of the fitted activation.

    LayerScale, registers, pooling and the like are built as the source has them.

    Args:
        source: see :func:`kat.models.read_vit`.
        name: the KAT, in timm's registry, e.g. ``"kat_tiny_patch16_224"``.
        args: further arguments of its constructor; they win over what the source needs. With an
            ``act_init``, act2 starts as that and is not fitted.
        num_classes: the source's by default; with another number the head is fresh.
        activation, images: see :func:`init_from_vit`.

    Returns:
        The KAT, ready to evaluate; its record, with the source's preprocessing where that is
        known, else the KAT's own; and the report.

    Raises:
        InputError: no such source or model, or a source that the KAT cannot take.
    """
    found = source if isinstance(source, ViTSource) else read_vit(source)
    if found.heads is not None:
        raise InputError(f"{found.name} is for {found.heads.task}: only classifiers are converted")
    record = make_record(found, name, args, num_classes)
    model = build_model(record)
    if not isinstance(model, KAT):
        raise InputError(f"{name!r} is a {type(model).__name__}; give the name of a KAT")
    fitted = "act_init" not in (args or {})
    report = init_from_vit(model, found, activation=activation, images=images, fit=fitted)
    return model.eval(), record, report


def make_record(
    found: ViTSource, name: str, args: Mapping[str, Any] | None, num_classes: int | None
) -> ModelRecord:
    """The record of the KAT that :func:`convert_vit` makes, from the same arguments."""
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models("*kat*"))
    args = dict(args or {})
    recipe = registered_preprocessing(name)
    height, width = _sides(args.get("img_size", recipe["input_size"][1:]))
    channels = args.get("in_chans", found.weights[_STEM].shape[1])
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"in_chans must be a number of channels, got {channels!r}")
    if channels != len(recipe["mean"]):
        recipe |= {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    recipe |= {**found.preprocessing, "input_size": (channels, height, width)}
    classes = found.classes
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    if num_classes is not None and num_classes != len(classes):
        classes = [str(index) for index in range(num_classes)]
    return ModelRecord(architecture=name, args={**found.args, **args}, classes=classes, **recipe)


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of images of this ``img_size``."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
        raise InputError(f"img_size must be a side in pixels or (height, width), got {size!r}")
    return sides[0], sides[1]


def init_from_vit(
    model: nn.Module,
    source: str | Path | nn.Module | ViTSource,
    *,
    activation: str | None = None,
    images: Tensor | None = None,
    fit: bool = True,
) -> Conversion:
    """Starts a model from a trained ViT: all that the two have in common is carried over.

    Attention, norms, embeddings, fc1 and fc2 are the source's; position and patch embeddings are
    resampled where sizes differ, the head is fresh where it has other classes. Of a KAT, act1 is
    the identity and act2 is fitted, block by block, to the source's activation where its inputs
    are. A source that is a KAT itself gives its rationals too, to a model that computes them alike.
    One that is a dense model gives its neck and heads to a model for the same task, without what
    has a part for each class where the classes are others.

    Args:
        model: a KAT, another model in timm's ViT layout, or a dense model, whose transformer it is
            then: without class token, registers and classifier, which are dropped.
        source: see :func:`kat.models.read_vit`.
        activation: the source's, as timm calls it, where the source does not say (``"gelu"`` if
            this does not either).
        images: (B, C, H, W), normalised, to see the activation's inputs and the outputs on;
            8 of normal noise by default.
        fit: False leaves act2 as it is.

    Returns:
        What was carried, and how far the outputs moved.

    Raises:
        InputError: no such source; weights that are not those of a ViT of this size, or not
            finite; another activation or other rationals than the source's; outputs that are not
            finite. The model is then as it was.
    """
    found = source if isinstance(source, ViTSource) else read_vit(source)
    if isinstance(model, DenseModel):
        return _init_dense(model, found.for_grid(), activation, images, fit)
    return _init(model, found, activation, images, fit)


def _init_dense(
    model: DenseModel,
    found: ViTSource,
    activation: str | None,
    images: Tensor | None,
    fit: bool,
) -> Conversion:
    """The transformer, and of a source that is a dense model what it has around that."""
    around = {} if found.heads is None else found.heads.fitted_to(model, found.name)
    report = _init(model.transformer, found, activation, images, fit)
    model.load_state_dict(around, strict=False)
    fresh = [name for name in DenseHeads.of(model).weights if name not in around]
    there = {} if found.heads is None else found.heads.weights
    return replace(
        report,
        carried=[*report.carried, *around],
        resized={**report.resized, **_other_sizes(there, around)},
        dropped=[*report.dropped, *(name for name in there if name not in around)],
        fresh=[*report.fresh, *fresh],
    )


def _init(
    model: nn.Module,
    found: ViTSource,
    activation: str | None,
    images: Tensor | None,
    fit: bool,
) -> Conversion:
    if not isinstance(model, VisionTransformer):
        raise InputError(f"a {type(model).__name__} cannot start from a ViT: it is not one")
    _check_finite(found)
    _check_heads(model, found)
    _check_rationals(model, found)
    source_act = _activation(activation, found)
    weights = _made_to_fit(found, model)
    own = model.state_dict()
    fresh = [name for name in _HEAD if name in own and name not in weights]
    report = Conversion(
        source=found.name,
        carried=list(weights),
        resized=_other_sizes(found.weights, weights),
        dropped=[*found.dropped, *_dropped(found, weights)],
        fresh=fresh,
    )
    if found.is_kat or not isinstance(model, KAT):
        _load(model, weights, found, fresh)
        return report
    vit = plain_twin(model, source_act)
    _load(vit, weights, found, fresh)
    images = (_noise(model) if images is None else images).to(own[_STEM])
    fits = _fits(model, vit, source_act, images) if fit else []
    fresh = [*fresh, *filter(is_coefficient, own)]
    made = copy.deepcopy(model)  # the model is touched when nothing can fail any more
    _load(made, weights, found, fresh)
    for mlp in _mlps(made):
        if isinstance(mlp.act1, GroupRational):
            mlp.act1.reset_parameters()
    for mlp, coefficients in zip(_mlps(made), fits, strict=False):
        _set(mlp.act2, coefficients)
    moved = movement(made, vit, images)
    model.load_state_dict(made.state_dict())
    return replace(
        report,
        fresh=fresh,
        activation=type(source_act).__name__ if fit else None,
        half_widths=tuple(round(c.interval[1]) for c in fits),
        fit_error=max((c.max_error for c in fits), default=None),
        moved=moved,
    )


def _check_heads(model: VisionTransformer, found: ViTSource) -> None:
    """Another number of heads fits in shape, and computes something else."""
    block: Any = model.blocks[0]
    if found.num_heads not in (None, block.attn.num_heads):
        raise InputError(
            f"{found.name} has {found.num_heads} heads and the model {block.attn.num_heads}; build"
            f" it with num_heads={found.num_heads}"
        )


def _check_finite(found: ViTSource) -> None:
    bad = [name for name, value in found.weights.items() if not value.isfinite().all()]
    if bad:
        raise InputError(
            f"{found.name} holds weights that are not finite, {len(bad)} tensors of them, the first"
            f" {bad[0]}"
        )


def _check_rationals(model: VisionTransformer, found: ViTSource) -> None:
    """The same coefficients are another function in the other form."""
    for name, own in rational_args(model).items():
        there = found.args.get(name, own)
        if there != own:
            raise InputError(
                f"the rationals of {found.name} have {name}={there!r} and the model's {own!r};"
                f" build it with {name}={there!r}"
            )


def _made_to_fit(found: ViTSource, model: VisionTransformer) -> dict[str, Tensor]:
    """The source's weights by the model's names and of its sizes, without what has no place."""
    weights = {
        "reg_token" if name == "dist_token" else name: value
        for name, value in found.weights.items()
        if not name.startswith("head_dist.")
    }
    own = model.state_dict()
    try:
        weights = checkpoint_filter_fn(weights, model, adapt_layer_scale=True)
        channels = own[_STEM].shape[1]
        if weights[_STEM].shape[1] != channels:
            weights[_STEM] = adapt_input_conv(channels, weights[_STEM])
    except (AttributeError, LookupError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{found.name} cannot be resampled to the model's sizes: {first_line(error)}"
        ) from None
    if any(
        name not in own or own[name].shape != weights[name].shape
        for name in _HEAD
        if name in weights
    ):
        weights = {name: value for name, value in weights.items() if name not in _HEAD}
    return weights


def _other_sizes(
    there: Mapping[str, Tensor], here: Mapping[str, Tensor]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {
        name: (tuple(there[name].shape), tuple(here[name].shape))
        for name in here
        if name in there and there[name].shape != here[name].shape
    }


def _dropped(found: ViTSource, weights: Mapping[str, Tensor]) -> list[str]:
    gone = (*_NO_PLACE, *(name for name in _HEAD if name not in weights))
    return [name for name in found.weights if name.startswith(gone)]


def _load(
    model: nn.Module, weights: Mapping[str, Tensor], found: ViTSource, fresh: list[str]
) -> None:
    try:
        load_weights(model, weights, source=found.name, may_lack=frozenset(fresh))
    except InputError as error:
        needs = f"; the source needs a model with {found.args}" if found.args else ""
        raise InputError(f"{error}{needs}") from None


def _activation(name: str | None, found: ViTSource) -> nn.Module:
    """The source's activation: its own where it is known, which a name must then agree with."""
    own = found.activation
    if name is None:
        return create_act_layer("gelu") if own is None else own
    try:
        named = create_act_layer(name)
    except (AssertionError, LookupError, TypeError):
        raise InputError(
            f"unknown activation {name!r}; give a name of timm's, e.g. gelu, gelu_tanh,"
            " quick_gelu, silu, relu, mish, tanh"
        ) from None
    if found.is_kat:
        raise InputError(f"{found.name} is a KAT with rationals of its own; leave activation out")
    if own is None:
        return named
    x = torch.linspace(-_COMPARED, _COMPARED, 1001)
    own_copy = copy.deepcopy(own).cpu()
    with torch.no_grad():  # clones, as some activations work in place
        if not torch.allclose(named(x.clone()), own_copy(x.clone()), rtol=0, atol=1e-6):
            raise InputError(
                f"the activation of {found.name} is {type(own).__name__}, not {name!r}; leave the"
                " activation out"
            )
    return own


def _noise(model: VisionTransformer) -> Tensor:
    height, width = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_NOISE_IMAGES, model.in_chans, height, width, generator=generator)


def _mlps(model: KAT) -> list[GRKANMlp]:
    blocks: list[Any] = list(model.blocks)
    return [block.mlp for block in blocks]


def _fits(
    model: KAT, vit: VisionTransformer, activation: nn.Module, images: Tensor
) -> list[Coefficients]:
    """For each block of the KAT the coefficients that stand for the activation where it is used."""
    act2 = _mlps(model)[0].act2
    widths = half_widths(vit, images)
    fits = {r: fit_activation(activation, r, act2.degree, act2.form) for r in sorted(set(widths))}
    return [fits[r] for r in widths]


@torch.no_grad()
def _set(act: GroupRational, coefficients: Coefficients) -> None:
    for own, values in (
        (act.weight_numerator, coefficients.numerator),
        (act.weight_denominator, coefficients.denominator),
    ):
        own.copy_(torch.tensor(values).expand_as(own))
