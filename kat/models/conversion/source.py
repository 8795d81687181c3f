"""Trained ViTs to start from: files of weights, stored models, models of timm."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError, unknown
from kat.models.checkpoints.model_record import ModelRecord, create_model
from kat.models.checkpoints.shipped import SHIPPED, model_path
from kat.models.checkpoints.storage import load_model, record_of_released
from kat.models.checkpoints.weight_files import (
    CONFIG,
    STEM,
    is_coefficient,
    read_weights,
    warn_without,
)
from kat.models.dense import DenseModel
from kat.models.dense.backbone import GridBlock
from kat.models.dense.model import TRANSFORMER
from kat.models.task import DEFAULT_TASK
from kat.nn import GatedGRKANMlp, GRKANMlp, GroupRational
from kat.text import listing, numbered

_FILES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz")
_PREFIX_TOKENS = ("cls_token", "reg_token", "register_tokens", "dist_token")
_NOT_IN_GRID = (*_PREFIX_TOKENS, "head.", "head_dist.", "attn_pool.")
_ARGS_NOT_IN_GRID = ("class_token", "reg_tokens", "no_embed_class", "global_pool", "fc_norm")
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(VisionTransformer).parameters.items()
} | {"norm_eps": LayerNorm(1).eps}


_SWITCHES = {
    "class_token": "cls_token",
    "pre_norm": "norm_pre.weight",
    "final_norm": "norm.weight",
    "qkv_bias": "blocks.0.attn.qkv.bias",
    "proj_bias": "blocks.0.attn.proj.bias",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "scale_attn_norm": "blocks.0.attn.norm.weight",
    "scale_mlp_norm": "blocks.0.mlp.norm.weight",
}
"""Arguments that are True for a ViT with weights of this name."""


@dataclass(frozen=True)
class ViTSource:
    """The weights of a trained ViT, and what is known about the model.

    Args:
        name: for messages.
        weights: by the names of timm's ViT, or of DeiT III's or DINOv2's authors.
        activation: the activation of the MLPs; None if unknown.
        num_heads: None if unknown.
        args: arguments of :class:`kat.models.ViT` that the weights need; for a KAT also the ones of
            its rationals. Empty for a file without a record, whose weights tell neither.
        preprocessing: the known fields of :class:`ModelRecord` about preprocessing.
        classes: names of the logits; numbers if unknown.
        dropped: entries that the model to initialize has no place for.
        record: the record of the model, if known.
        grid: (rows, columns) of patches; None if unknown, and then taken to be square.
        task: of the model.
        heads: the weights of a dense model without its transformer's: neck, heads, relative
            positions.
        class_layers: the prefixes of the weights that have a part for each class.

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
    task: str = DEFAULT_TASK
    heads: dict[str, Tensor] = field(default_factory=dict)
    class_layers: tuple[str, ...] = ("head.",)

    @property
    def is_kat(self) -> bool:
        """True for a KAT, which has rationals of its own."""
        return any(map(is_coefficient, self.weights))

    def args_for(self, architecture: str) -> dict[str, Any]:
        """``args`` that a registered model takes: timm's own have ``norm_eps`` by their name."""
        is_timms = timm.model_entrypoint(architecture).__module__.startswith("timm.")
        return {name: v for name, v in self.args.items() if not (is_timms and name == "norm_eps")}

    def for_classes(self, classes: list[str]) -> ViTSource:
        """Return the source for a model with these classes, without a head for other classes.

        A head whose classes are numbers is assumed to fit any.
        """
        if self.classes in (classes, numbered(len(self.classes))):
            return self
        gone = [n for n in (*self.weights, *self.heads) if n.startswith(self.class_layers)]
        weights = {name: value for name, value in self.weights.items() if name not in gone}
        heads = {name: value for name, value in self.heads.items() if name not in gone}
        return replace(self, weights=weights, dropped=(*self.dropped, *gone), heads=heads)

    def for_grid(self) -> ViTSource:
        """Return the source for a model without prefix tokens, pooling and classifier.

        Only patches have positions. A norm after the pooling becomes the final norm.
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
        """Return the number of positions before the patches' own."""
        if "register_tokens" in self.weights:  # DINOv2's layout: only the class token has one
            return 1
        if self.args.get("no_embed_class", False):
            return 0
        return sum(self.weights[name].shape[1] for name in _PREFIX_TOKENS if name in self.weights)


def read_vit(source: str | Path | nn.Module) -> ViTSource:
    """Read a trained ViT.

    Args:
        source: a file (``.safetensors``, a torch file), a folder with model.safetensors and
            config.json, a run directory, ``"digits"`` as of :func:`kat.load`, the name of a
            pretrained timm model (including ``hf-hub:OWNER/NAME``), or a model.

    Raises:
        InputError: the source does not exist, is damaged, or is not a ViT.

    Examples:
        >>> import timm
        >>> from kat.models import read_vit
        >>> read_vit(timm.create_model("vit_tiny_patch16_224")).num_heads
        3
    """
    if isinstance(source, nn.Module):
        return _from_model(source, name=type(source).__name__)
    name, path = str(source), model_path(source)
    if path.suffix == ".npz":
        raise InputError(
            f"{path} is in Google's .npz format: give the name of timm's model of these weights,"
            " e.g. vit_tiny_patch16_224.augreg_in21k, or a model into which timm has loaded them,"
            " by timm.create_model(NAME, checkpoint_path=PATH)"
        )
    beside = path.suffix == ".safetensors" and path.with_name(CONFIG).is_file()
    if path.is_dir() or beside or (path.suffix == ".ckpt" and path.is_file()):
        return _from_model(*load_model(path), name=name)
    if path.is_file() or path.suffix in _FILES:
        weights, _, checksum = read_weights(path)
        warn_without(checksum, path)
        return _from_weights(weights, name)
    if ":" not in name and not timm.is_model(name):
        raise unknown("model or file", name, [*SHIPPED, *timm.list_models()])
    model: Any = create_model(name, pretrained=True)
    record = ModelRecord.from_timm(
        {
            **model.pretrained_cfg,
            "pretrained_cfg": model.pretrained_cfg,
            "num_classes": model.num_classes,
        },
        name,
    )
    return _from_model(model, record, name=name)


def _from_weights(weights: dict[str, Tensor], name: str) -> ViTSource:
    if STEM not in weights or not any(key.startswith("blocks.0.attn.") for key in weights):
        raise InputError(
            f"{name} does not hold a ViT in timm's layout: its entries are {listing(weights)}"
        )
    return ViTSource(
        name,
        weights,
        classes=numbered(len(weights.get("head.weight", ()))),
        record=record_of_released(weights),
    )


def _from_model(model: nn.Module, record: ModelRecord | None = None, *, name: str) -> ViTSource:
    classes = record.classes if record else []
    if isinstance(model, DenseModel):
        return replace(
            _from_model(model.transformer, record, name=name),
            classes=classes or numbered(model.num_classes),
            task=model.task,
            heads=own_weights(model),
            class_layers=model.class_layers,
        )
    if not isinstance(model, VisionTransformer) or type(model.blocks[0]) not in (Block, GridBlock):
        raise InputError(f"{name} is a {type(model).__name__}, not a Vision Transformer of timm's")
    block: Any = model.blocks[0]
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    fields = ("mean", "std", "interpolation", "crop_pct")
    return ViTSource(
        name,
        weights,
        activation=copy.deepcopy(getattr(block.mlp, "act", None)),
        num_heads=block.attn.num_heads,
        args={**_vit_args(weights, model), **rational_args(model)},
        preprocessing={key: getattr(record, key) for key in fields} if record else {},
        classes=classes or numbered(model.num_classes),
        record=record,
        grid=tuple(model.patch_embed.grid_size),
    )


def own_weights(model: DenseModel) -> dict[str, Tensor]:
    """Return the weights of a dense model without its transformer's, by name."""
    state = model.state_dict().items()
    return {name: w.detach() for name, w in state if not name.startswith(TRANSFORMER)}


def _vit_args(weights: Mapping[str, Tensor], model: VisionTransformer) -> dict[str, Any]:
    """Return the arguments of :class:`kat.models.ViT`, other than the defaults, for weights.

    A distillation token becomes a register. The number of heads and the sizes of images and patches
    are not included.
    """
    block: Any = model.blocks[0]
    args: dict[str, Any] = {name: weight in weights for name, weight in _SWITCHES.items()}
    args |= {
        "reg_tokens": model.num_prefix_tokens - args["class_token"],
        "no_embed_class": model.no_embed_class and model.num_prefix_tokens > 0,
        "global_pool": model.global_pool,
        "pool_include_prefix": model.pool_include_prefix,
        "norm_eps": block.norm1.eps,
    }
    if "fc_norm.weight" in weights:
        args |= {"fc_norm": True, "final_norm": True}
    elif model.global_pool == "avg":
        args["fc_norm"] = False
    if "blocks.0.ls1.gamma" in weights:
        args["init_values"] = 1e-5
    if "pos_embed" not in weights:
        args["pos_embed"] = "none"
    return {name: value for name, value in args.items() if value != _DEFAULTS[name]}


def rational_args(model: VisionTransformer) -> dict[str, Any]:
    """Return the arguments of a KAT that its coefficients need; {} for a ViT.

    Weights alone do not distinguish form A from form B.
    """
    blocks: list[Any] = list(model.blocks)
    mlps = [block.mlp for block in blocks if isinstance(block.mlp, (GRKANMlp, GatedGRKANMlp))]
    if not mlps:
        return {}
    mlp = mlps[0]
    act: Any = mlp.act2 if isinstance(mlp, GRKANMlp) else mlp.act
    args = {
        "num_groups": getattr(mlp, "num_groups", act.num_groups),
        "degree": list(act.degree),
        "form": act.form,
        "share": act.share,
    }
    if isinstance(mlp, GRKANMlp) and not isinstance(mlp.act1, GroupRational):
        args["first_init"] = "none"
    return args
