"""Trained ViTs to start from: state dicts, Google's .npz files, stored models, timm's models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError, first_line, unknown
from kat.models.checkpoints.model_record import ModelRecord, preprocessing_of
from kat.models.checkpoints.state_dict import STEM, is_coefficient
from kat.models.checkpoints.storage import load_model, record_of_released
from kat.models.checkpoints.weight_files import read_weights, warn_without
from kat.models.conversion.google_npz import PREPROCESSING, read_google_vit
from kat.models.conversion.vit_args import REGISTERS, rational_args, vit_args
from kat.models.dense import DenseHeads, DenseModel
from kat.text import listing, numbered

_FILES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz")
_PREFIX_TOKENS = ("cls_token", *REGISTERS)
_NOT_IN_GRID = (*_PREFIX_TOKENS, "head.", "head_dist.", "attn_pool.")
_ARGS_NOT_IN_GRID = ("class_token", "reg_tokens", "no_embed_class", "global_pool", "fc_norm")
_DIMENSIONS = {STEM: 4, "head.weight": 2, "pos_embed": 3, **dict.fromkeys(REGISTERS, 3)}


@dataclass(frozen=True)
class ViTSource:
    """The weights of a trained ViT, and what is known about the model.

    Args:
        name: for messages.
        weights: by the names of timm's ViT, or of DeiT III's or DINOv2's authors.
        activation: the activation of the MLPs; None if unknown.
        num_heads: None if unknown.
        args: arguments of :class:`kat.models.ViT` that the weights need; for a KAT also those of
            its rationals, if known.
        preprocessing: the known fields of :class:`ModelRecord` about preprocessing.
        classes: names of the logits; numbers if unknown.
        dropped: entries of the file that timm's ViT has no place for.
        record: the record of the model, if known.
        grid: (rows, columns) of patches; None if unknown, and then taken to be square.
        heads: neck and heads of a model for a dense task.

    Examples:
        >>> import kat
        >>> source = kat.models.read_vit(kat.models.create_model("vit_micro", num_classes=3))
        >>> source.num_heads, source.is_kat, source.classes
        (4, False, ['0', '1', '2'])
    """

    name: str
    weights: dict[str, Tensor]
    activation: nn.Module | None = None
    num_heads: int | None = None
    args: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    record: ModelRecord | None = None
    grid: tuple[int, int] | None = None
    heads: DenseHeads | None = None

    @property
    def is_kat(self) -> bool:
        """Whether it is a KAT itself, with rationals of its own."""
        return any(map(is_coefficient, self.weights))

    def args_for(self, architecture: str) -> dict[str, Any]:
        """``args`` that a registered model takes: timm's own have ``norm_eps`` by their name."""
        is_timms = timm.model_entrypoint(architecture).__module__.startswith("timm.")
        return {name: v for name, v in self.args.items() if not (is_timms and name == "norm_eps")}

    def for_classes(self, classes: list[str]) -> ViTSource:
        """The source for a model with these classes: without its head if that has other classes.

        A head whose classes are numbers is assumed to fit any.
        """
        if self.classes in (classes, numbered(len(self.classes))):
            return self
        kept = {name: w for name, w in self.weights.items() if not name.startswith("head.")}
        gone = tuple(name for name in self.weights if name not in kept)
        heads = None if self.heads is None else self.heads.without_class_layers()
        return replace(self, weights=kept, dropped=(*self.dropped, *gone), heads=heads)

    def for_grid(self) -> ViTSource:
        """The source for a model without prefix tokens, pooling and classifier.

        Positions are those of the patches alone. A norm after the pooling becomes the final norm.
        """
        weights = {
            name.replace("fc_norm.", "norm."): value
            for name, value in self.weights.items()
            if not name.startswith(_NOT_IN_GRID)
        }
        if "pos_embed" in weights:
            weights["pos_embed"] = weights["pos_embed"][:, self._prefix_positions() :]
        gone = tuple(name for name in self.weights if name.startswith(_NOT_IN_GRID))
        args = {name: value for name, value in self.args.items() if name not in _ARGS_NOT_IN_GRID}
        return replace(self, weights=weights, dropped=(*self.dropped, *gone), args=args)

    def _prefix_positions(self) -> int:
        """The number of positions before those of the patches."""
        if "register_tokens" in self.weights:  # DINOv2's layout: only the class token has one
            return 1
        if self.args.get("no_embed_class", False):
            return 0
        return sum(self.weights[name].shape[1] for name in _PREFIX_TOKENS if name in self.weights)


def read_vit(source: str | Path | nn.Module) -> ViTSource:
    """Reads a trained ViT.

    Args:
        source: a file (``.safetensors``, a torch file, Google's ``.npz``), a folder with
            model.safetensors and config.json, a run directory, the name of a pretrained timm
            model (including ``hf_hub:`` names), or a model.

    Raises:
        InputError: the source does not exist, is damaged, or is not a ViT.

    Examples:
        >>> import timm
        >>> from kat.models import read_vit
        >>> read_vit(timm.create_model("vit_tiny_patch16_224")).num_heads
        3
    """
    if isinstance(source, nn.Module):
        return _of_model(source, name=type(source).__name__)
    name, path = str(source), Path(source)
    if path.suffix == ".npz":
        model, dropped = read_google_vit(path)
        return replace(
            _of_model(model, name=name), preprocessing=dict(PREPROCESSING), dropped=dropped
        )
    if path.is_dir() or _has_record(path):
        return _of_model(*load_model(path), name=name)
    if path.is_file() or path.suffix in _FILES:
        weights, _, checksum = read_weights(path)
        found = _of_weights(weights, name)
        warn_without(checksum, path)
        return found
    return _of_timm(name)


def _has_record(path: Path) -> bool:
    """Whether a file has the record of its model beside it or inside."""
    if path.suffix == ".ckpt":
        return path.is_file()
    return path.suffix == ".safetensors" and (path.parent / "config.json").is_file()


def _of_weights(weights: dict[str, Tensor], name: str) -> ViTSource:
    if not any(key.startswith("blocks.0.attn.") for key in weights):
        raise InputError(
            f"{name} does not hold a ViT in timm's layout: its entries are {listing(weights)}, and"
            " none is of blocks.0.attn"
        )
    _check_layout(weights, name)
    return ViTSource(
        name,
        weights,
        args=vit_args(weights),
        classes=numbered(len(weights.get("head.weight", ()))),
        record=record_of_released(weights),
    )


def _check_layout(weights: Mapping[str, Tensor], name: str) -> None:
    """Raises InputError unless the tensors whose shapes are used have a ViT's dimensions."""
    for key, dimensions in _DIMENSIONS.items():
        if key in weights and weights[key].ndim != dimensions:
            shape = tuple(weights[key].shape)
            raise InputError(
                f"{name} does not hold a ViT in timm's layout: {key} has the shape {shape}, not"
                f" {dimensions} dimensions"
            )
    if STEM not in weights:
        raise InputError(f"{name} does not hold a ViT in timm's layout: {STEM} is missing")


def _of_model(model: nn.Module, record: ModelRecord | None = None, *, name: str) -> ViTSource:
    classes = record.classes if record else []
    if isinstance(model, DenseModel):
        found = _of_model(model.transformer, record, name=name)
        return replace(
            found, heads=DenseHeads.of(model), classes=classes or numbered(model.num_classes)
        )
    if not isinstance(model, VisionTransformer) or type(model.blocks[0]) is not Block:
        raise InputError(f"{name} is a {type(model).__name__}, not a Vision Transformer of timm's")
    block: Any = model.blocks[0]
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    _check_layout(weights, name)
    fields = ("mean", "std", "interpolation", "crop_pct")
    return ViTSource(
        name,
        weights,
        activation=copy.deepcopy(getattr(block.mlp, "act", None)),
        num_heads=block.attn.num_heads,
        args={**vit_args(weights, model), **rational_args(model)},
        preprocessing={key: getattr(record, key) for key in fields} if record else {},
        classes=classes or numbered(model.num_classes),
        record=record,
        grid=tuple(model.patch_embed.grid_size),
    )


def _of_timm(name: str) -> ViTSource:
    if ":" not in name and not timm.is_model(name):
        raise unknown("model (nor is there a file of this name)", name, timm.list_models())
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # the Hub's client raises its own kinds, not all of them OSError
        raise InputError(f"the weights of {name!r} are unavailable: {first_line(error)}") from None
    config = model.pretrained_cfg
    record = ModelRecord(
        architecture=config["architecture"],
        classes=list(map(str, config.get("label_names") or range(model.num_classes))),
        **preprocessing_of(config),
    )
    return _of_model(model, record, name=name)
