"""Models from trained ViTs: common weights are copied, and a KAT's act2 is fitted.

A KAT so made computes what the ViT does, up to the error of the fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp, create_act_layer, resample_abs_pos_embed
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.documents import write_json
from kat.errors import InputError
from kat.models.checkpoints.model_record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.weight_files import STEM, is_coefficient, load_weights
from kat.models.conversion.source import ViTSource, own_weights, rational_args, read_vit
from kat.models.dense import DenseModel
from kat.models.dense.attention import offsets_of_grid
from kat.models.kat import KAT
from kat.nn import Coefficients, GRKANMlp, GroupRational
from kat.nn.rational import set_coefficients
from kat.text import counted, listing, numbered

_HEAD = ("head.weight", "head.bias")
_NO_PLACE = ("mask_token", "head_dist.", "pre_logits.")
_RELATIVE_POSITIONS = "backbone.body."
"""The prefix of the relative positions of a dense model, which fit any task."""
_NOISE_IMAGES = 8
_COMPARED = 10.0
_COVERED = 0.999
_NARROWEST, _WIDEST = 3, 10
_GOAL = 1e-2
"""The movement above which a closer fit is suggested."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Movement:
    """The distance of a model's outputs from those of the ViT that it was made of.

    Args:
        max: max |KAT - ViT| / max |ViT|, over images and classes.
        rms: the same ratio of root mean squares.
        images: their number.

    Examples:
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> moved = kat.models.init_from_vit(kat.models.create_model("kat_micro"), vit).moved
        >>> moved.images, moved.rms < 0.05
        (8, True)
    """

    max: float
    rms: float
    images: int


@dataclass(frozen=True)
class Conversion:
    """The record of how the weights of a ViT were carried over.

    Args:
        source: the ViT.
        carried: names of the parameters that come from the source.
        resized: the resampled ones of them: name to (shape in the source, shape here).
        dropped: entries of the source that the model has no place for.
        fresh: names of the parameters that do not come from the source: rationals, a head for
            other classes.
        activation: the activation of the source, to which act2 was fitted; None if it was not.
        half_widths: r of the interval [-r, r] of the fit, for each block.
        fit_error: the largest |act2 - activation| on these intervals.
        moved: the distance of the outputs from the source's, with the same resizing; None if
            nothing was fitted.

    Examples:
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> model, record, conversion = kat.models.convert_vit(vit, "kat_micro")
        >>> conversion.activation, len(conversion.carried), conversion.dropped
        ('GELU', 56, [])
    """

    source: str
    carried: list[str]
    resized: dict[str, tuple[Shape, Shape]]
    dropped: list[str]
    fresh: list[str]
    activation: str | None = None
    half_widths: tuple[int, ...] = ()
    fit_error: float | None = None
    moved: Movement | None = None

    def summary(self) -> str:
        """The report in one line."""
        kinds = ("carried", "resized", "dropped", "fresh")
        parts = [f"{len(getattr(self, kind))} {kind}" for kind in kinds]
        if self.moved is not None:
            parts.append(f"outputs moved by {self.moved.max:.1e} (max), {self.moved.rms:.1e} (RMS)")
        return f"from {self.source}: {', '.join(parts)}"

    def rows(self, images: str = "images") -> list[tuple[str, str]]:
        """The report as rows of a label and a text.

        Args:
            images: what to call the images that the movement was measured on.
        """
        rows = [("from", self.source), ("carried", counted(len(self.carried), "tensor"))]
        rows += [("resized", f"{n} {there} to {here}") for n, (there, here) in self.resized.items()]
        rows += [("dropped", name) for name in self.dropped]
        rows += [("fresh", f"{counted(len(self.fresh), 'tensor')}: {listing(self.fresh, 4)}")]
        if self.activation is not None:
            widths = ", ".join(map(str, self.half_widths))
            rows.append(("act2", f"{self.activation} on [-r, r], r = {widths} block by block"))
            rows.append(("", f"maximum error there {self.fit_error:.1e}"))
        if self.moved is not None:
            rows.append(("outputs moved", f"{self.moved.max:.2e} max, {self.moved.rms:.2e} RMS"))
            rows.append(("", f"relative to the ViT's, on {self.moved.images} {images}"))
            if max(self.moved.max, self.moved.rms) > _GOAL:
                rows.append(("", "more than 1e-2: --args '{degree: [9, 8]}' gives a closer fit"))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Writes the report as a JSON file."""
        write_json(path, self.to_dict())


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
    """The record of the KAT that :func:`convert_vit` makes of the same arguments."""
    args, recipe = dict(args or {}), registered_preprocessing(name)
    size = args.get("img_size", recipe["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else size
    channels = args.get("in_chans", source.weights[STEM].shape[1])
    if channels != len(recipe["mean"]):
        recipe |= {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    kept = {
        name: value
        for name, value in source.preprocessing.items()
        if name not in ("mean", "std") or len(value) == channels
    }
    recipe |= {**kept, **(preprocessing or {}), "input_size": (channels, height, width)}
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
    """Initializes a model from a trained ViT, with all weights that the two have in common.

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
        InputError: the source does not exist; its weights are not those of a ViT of this size, or
            not finite; it has another activation or other rationals. The model is then unchanged.

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
    vit = _plain_twin(model, function) if isinstance(model, KAT) and not source.is_kat else model
    needs = f", which needs {source.args}," if source.args else ""
    load_weights(vit, weights, source=f"{source.name}{needs}", may_lack=frozenset(fresh))
    if vit is model or not isinstance(model, KAT):
        return report
    if images is None:
        height, width = model.patch_embed.img_size
        shape = (_NOISE_IMAGES, model.in_chans, height, width)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")
    images = images.to(model.patch_embed.proj.weight)
    fits = _fit_rationals(model, vit, function, images) if fit else []
    model.load_state_dict(weights, strict=False)
    mlps = list(_mlps(model).values())
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
    """Checks what the shapes of weights do not tell, with which the model would compute another
    function: values that are not finite, heads, rationals, fixed activations."""
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
    """The source's weights by the names and of the sizes of the model."""
    weights = {
        "reg_token" if name == "dist_token" else name: value
        for name, value in source.weights.items()
        if not name.startswith("head_dist.")
    }
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
    return {
        name: (tuple(given[name].shape), tuple(own[name].shape))
        for name in own
        if name in given and given[name].shape != own[name].shape
    }


def _plain_twin(model: KAT, activation: nn.Module) -> KAT:
    """A copy of a KAT with timm's MLPs and this activation in place of its GR-KAN MLPs: a ViT."""
    twin = copy.deepcopy(model).eval()
    for index, mlp in _mlps(model).items():
        sizes = mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc2.out_features
        plain = Mlp(*sizes, bias=mlp.fc1.bias is not None)
        plain.act, plain.norm = copy.deepcopy(activation), copy.deepcopy(mlp.norm)
        twin.blocks[index].mlp = plain.to(mlp.fc1.weight).eval()
    return twin


def _mlps(model: KAT) -> dict[int, GRKANMlp]:
    """The GR-KAN MLPs, by the number of their block."""
    blocks: list[Any] = list(model.blocks)
    return {i: b.mlp for i, b in enumerate(blocks) if isinstance(b.mlp, GRKANMlp)}


def _fit_rationals(
    model: KAT, vit: VisionTransformer, activation: nn.Module, images: Tensor
) -> list[Coefficients]:
    """The coefficients of each act2: the least maximum error where the activation's inputs are."""
    from kat.nn.fitting import fit  # imports SciPy's optimizers

    def target(x: Any) -> Any:
        return activation(torch.from_numpy(x)).numpy()

    mlps, fits = _mlps(model), {}
    of_blocks = half_widths(vit, images)
    for r in {of_blocks[block] for block in mlps}:
        act2: Any = next(iter(mlps.values())).act2
        fits[r] = fit(target, act2.degree, act2.form, (-float(r), float(r))).coefficients
    return [fits[of_blocks[block]] for block in mlps]


@torch.no_grad()
def half_widths(vit: VisionTransformer, images: Tensor) -> list[int]:
    """For each block, the least integer r such that [-r, r] has 99.9 % of the activation's inputs.

    It is at least 3 and at most 10. A fit on a narrower interval is closer inside it, and deviates
    sooner outside.

    Args:
        vit: with timm's MLPs.
        images: (B, C, H, W), normalized.
    """
    found: list[int] = []

    def record(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes = output.flatten().abs()
        covered = sizes.kthvalue(math.ceil(_COVERED * len(sizes))).values.item()
        found.append(min(max(math.ceil(covered), _NARROWEST), _WIDEST))

    blocks: list[Any] = list(vit.blocks)
    hooks = [block.mlp.fc1.register_forward_hook(record) for block in blocks]
    try:
        vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def movement(model: nn.Module, vit: nn.Module, images: Tensor) -> Movement:
    """The distance of a KAT's outputs from those of its ViT on these images; 0 / 0 counts as 0."""
    training = model.training
    expected, outputs = vit.eval()(images), model.eval()(images)
    model.train(training)
    off = outputs - expected

    def ratio(size: Tensor, to: Tensor) -> float:
        return 0.0 if size == 0 else (size / to).item()

    return Movement(
        max=ratio(off.abs().max(), expected.abs().max()),
        rms=ratio(off.square().mean().sqrt(), expected.square().mean().sqrt()),
        images=len(images),
    )
