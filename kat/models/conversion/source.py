"""Trained ViTs to start a KAT from: state dicts, Google's .npz files, stored and named models."""

from __future__ import annotations

import copy
import inspect
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError, first_line, unknown
from kat.models.checkpoints.record import ModelRecord, preprocessing_of
from kat.models.checkpoints.state_dict import is_coefficient, read_state_dict
from kat.models.checkpoints.storage import load_model, record_of_released
from kat.models.dense import DenseModel, Surroundings
from kat.nn import GRKANMlp, GroupRational
from kat.text import listing

_FILES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz")
_GOOGLE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}
"""The preprocessing of Google's ViTs."""


@dataclass(frozen=True)
class ViTSource:
    """The weights of a trained ViT, and what is known of the model that they are of.

    Args:
        name: what to call it.
        weights: by the names of timm's ViT, or DeiT III's or DINOv2's own.
        activation: of its MLPs; None where the source does not say.
        num_heads: None where the source does not say.
        args: arguments of timm's ``VisionTransformer`` that the weights need; for a KAT also those
            of its rationals, where the source says them.
        preprocessing: what of a :class:`ModelRecord`'s preprocessing the source says.
        classes: names of the logits; numbers where the source has none.
        dropped: entries of the file that timm's ViT has no place for.
        record: of the model, where the source says which one it is.
        dense: of a model for a dense task what it has beside the transformer.
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
    dense: Surroundings | None = None

    @property
    def is_kat(self) -> bool:
        """Whether it is a KAT already, with rationals of its own."""
        return any(map(is_coefficient, self.weights))

    def for_classes(self, classes: list[str]) -> ViTSource:
        """The source for a model of these classes: without its head, where that names others.

        A head that has numbers for class names is taken to be of any classes.
        """
        numbers = [str(index) for index in range(len(self.classes))]
        if self.classes in (classes, numbers):
            return self
        kept = {name: w for name, w in self.weights.items() if not name.startswith("head.")}
        gone = tuple(name for name in self.weights if name not in kept)
        dense = None if self.dense is None else self.dense.for_other_classes()
        return replace(self, weights=kept, dropped=(*self.dropped, *gone), dense=dense)

    def for_grid(self) -> ViTSource:
        """The source for a model without prefix tokens, pooling and classifier.

        The positions are those of the patches alone; a norm behind the pooling is the final norm.
        """
        weights = {
            name.replace("fc_norm.", "norm."): value
            for name, value in self.weights.items()
            if not name.startswith(_NOT_OF_GRID)
        }
        if "pos_embed" in weights:
            weights["pos_embed"] = weights["pos_embed"][:, self._prefix_positions() :]
        gone = tuple(name for name in self.weights if name.startswith(_NOT_OF_GRID))
        args = {name: value for name, value in self.args.items() if name not in _ARGS_NOT_OF_GRID}
        return replace(self, weights=weights, dropped=(*self.dropped, *gone), args=args)

    def _prefix_positions(self) -> int:
        """How many of the positions come before those of the patches."""
        if "register_tokens" in self.weights:  # DINOv2's own layout has the class token's alone
            return 1
        if self.args.get("no_embed_class", False):
            return 0
        return sum(self.weights[name].shape[1] for name in _PREFIX if name in self.weights)


def read_vit(source: str | Path | nn.Module) -> ViTSource:
    """Reads a trained ViT.

    Args:
        source: a file (``.safetensors``, a torch file, Google's ``.npz``); a folder with
            model.safetensors and config.json, or a run's; the name of a pretrained timm model
            (``hf_hub:`` names too); or a model.

    Raises:
        InputError: there is no such thing, it is damaged, or it is not a ViT.
    """
    if isinstance(source, nn.Module):
        return _of_model(source, type(source).__name__)
    name, path = str(source), Path(source)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.is_dir() or _is_stored(path):
        model, record = load_model(path)
        return replace(
            _of_model(model, name, _preprocessing(record), record.classes), record=record
        )
    if path.is_file() or path.suffix in _FILES:
        return _of_weights(read_state_dict(path), name)
    return _named(name)


def _preprocessing(record: ModelRecord) -> dict[str, Any]:
    return {n: getattr(record, n) for n in ("mean", "std", "interpolation", "crop_pct")}


def _is_stored(path: Path) -> bool:
    """Whether a file has a record of its model beside it or inside."""
    if path.suffix == ".ckpt":
        return path.is_file()
    return path.suffix == ".safetensors" and (path.parent / "config.json").is_file()


def _of_weights(weights: dict[str, Tensor], name: str) -> ViTSource:
    if not any(key.startswith("blocks.0.attn.") for key in weights):
        raise InputError(
            f"{name} does not hold a ViT in timm's layout: its entries are"
            f" {listing(weights)}, and none is of blocks.0.attn"
        )
    _check_layout(weights, name)
    return ViTSource(
        name,
        weights,
        args=layout(weights),
        classes=[str(index) for index in range(len(weights.get("head.weight", ())))],
        record=record_of_released(weights),
    )


def _check_layout(weights: Mapping[str, Tensor], name: str) -> None:
    """Whether what is read from shapes has the number of dimensions that a ViT's has."""
    for key, dimensions in _DIMENSIONS.items():
        if key in weights and weights[key].ndim != dimensions:
            shape = tuple(weights[key].shape)
            raise InputError(
                f"{name} does not hold a ViT in timm's layout: {key} has the shape {shape}, not"
                f" {dimensions} dimensions"
            )
    if _STEM not in weights:
        raise InputError(f"{name} does not hold a ViT in timm's layout: {_STEM} is missing")


def _of_model(
    model: nn.Module,
    name: str,
    preprocessing: Mapping[str, Any] | None = None,
    classes: list[str] | None = None,
) -> ViTSource:
    if isinstance(model, DenseModel):
        classes = classes or [str(index) for index in range(model.num_classes)]
        found = _of_model(model.transformer, name, preprocessing, classes)
        return replace(found, dense=Surroundings.of(model))
    if not isinstance(model, VisionTransformer) or type(model.blocks[0]) is not Block:
        raise InputError(f"{name} is a {type(model).__name__}, not a Vision Transformer of timm's")
    block: Any = model.blocks[0]
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    _check_layout(weights, name)
    return ViTSource(
        name,
        weights,
        activation=copy.deepcopy(getattr(block.mlp, "act", None)),
        num_heads=block.attn.num_heads,
        args={**layout(weights, model), **rational_args(model)},
        preprocessing=dict(preprocessing or {}),
        classes=classes or [str(index) for index in range(model.num_classes)],
    )


def _named(name: str) -> ViTSource:
    if ":" not in name and not timm.is_model(name):
        raise unknown("model (nor is there a file of this name)", name, timm.list_models())
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client raises its own kinds, not all of them OSError
        raise InputError(f"the weights of {name!r} cannot be had: {first_line(error)}") from None
    config = model.pretrained_cfg
    labels = config.get("label_names") or range(model.num_classes)
    record = ModelRecord(
        architecture=config["architecture"],
        classes=[str(label) for label in labels],
        **preprocessing_of(config),
    )
    source = _of_model(model, name, _preprocessing(record), record.classes)
    return replace(source, record=record)


def layout(weights: Mapping[str, Tensor], model: VisionTransformer | None = None) -> dict[str, Any]:
    """The arguments of timm's ``VisionTransformer`` that a ViT's weights need; {} for a plain one.

    A distillation token becomes a register: a token that attention sees and the classifier does
    not. Neither the heads nor the size of images and patches are told.

    Args:
        weights: by the names of timm's ViT, or DeiT III's or DINOv2's own.
        model: what they are of, where that is known; else pooling is guessed from the norms.
    """

    def has(*names: str) -> bool:
        return any(name in weights for name in names)

    registers = sum(weights[name].shape[1] for name in _REGISTERS if name in weights)
    prefix = registers + has("cls_token")
    if model is None:
        bare = has("register_tokens") or _is_grid(weights.get("pos_embed"), prefix)
        pool = _pool(weights)
    else:
        bare, pool = model.no_embed_class, model.global_pool
    args: dict[str, Any] = {
        "init_values": 1e-5 if has("blocks.0.ls1.gamma", "blocks.0.gamma_1") else None,
        "reg_tokens": registers,
        "class_token": has("cls_token"),
        "no_embed_class": bare and prefix > 0,
        "pos_embed": "learn" if has("pos_embed") else "none",
        "global_pool": pool,
        "fc_norm": has("fc_norm.weight") if pool == "avg" else None,
        "pre_norm": has("norm_pre.weight"),
        "final_norm": has("norm.weight", "fc_norm.weight"),
        "qkv_bias": has("blocks.0.attn.qkv.bias"),
        "proj_bias": has("blocks.0.attn.proj.bias"),
        "qk_norm": has("blocks.0.attn.q_norm.weight"),
        "scale_attn_norm": has("blocks.0.attn.norm.weight"),
        "scale_mlp_norm": has("blocks.0.mlp.norm.weight"),
    }
    return {name: value for name, value in args.items() if value != _PLAIN[name]}


def rational_args(model: VisionTransformer) -> dict[str, Any]:
    """The arguments of a KAT that make its coefficients the functions that they are; {} for a ViT.

    Shapes do not tell form A from form B.
    """
    block: Any = model.blocks[0]
    if not isinstance(block.mlp, GRKANMlp):
        return {}
    act = block.mlp.act2
    first = {} if isinstance(block.mlp.act1, GroupRational) else {"first_init": "none"}
    return {
        **first,
        "num_groups": block.mlp.num_groups,
        "degree": list(act.degree),
        "form": act.form,
        "share": act.share,
    }


_REGISTERS = ("reg_token", "register_tokens", "dist_token")
_PREFIX = ("cls_token", *_REGISTERS)
_NOT_OF_GRID = (*_PREFIX, "head.", "head_dist.", "attn_pool.")
_ARGS_NOT_OF_GRID = ("class_token", "reg_tokens", "no_embed_class", "global_pool", "fc_norm")
_STEM = "patch_embed.proj.weight"
_DIMENSIONS = {_STEM: 4, "head.weight": 2, "pos_embed": 3, **dict.fromkeys(_REGISTERS, 3)}
_PLAIN = {
    name: parameter.default
    for name, parameter in inspect.signature(VisionTransformer).parameters.items()
}


def _pool(weights: Mapping[str, Tensor]) -> str:
    if "attn_pool.latent" in weights:
        return "map"
    return "token" if "cls_token" in weights and "fc_norm.weight" not in weights else "avg"


def _is_grid(positions: Tensor | None, prefix: int) -> bool:
    """Whether the positions are those of a square of patches alone, without the prefix tokens."""
    if positions is None:
        return False
    count = positions.shape[1]
    return math.isqrt(count) ** 2 == count and math.isqrt(count - prefix) ** 2 != count - prefix


def _read_npz(path: Path) -> ViTSource:
    """Google's ViTs as JAX has them, through timm's own loader."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            args = _npz_args(arrays)
            dropped = tuple(name for name in arrays.files if "pre_logits/" in name)
        model = VisionTransformer(**args, weight_init="skip")
        with torch.no_grad():
            model.load_pretrained(str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (
        AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} is not a ViT of Google's in .npz format, or not complete: {first_line(error)}"
        ) from None
    return replace(_of_model(model, str(path), _GOOGLE), dropped=dropped)


def _npz_args(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the ``VisionTransformer`` whose weights a .npz file holds."""
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
