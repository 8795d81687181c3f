"""Models on disk: a folder with model.safetensors and config.json, in timm's hub format.

Such a folder loads here with :func:`load_model`, and in any timm program, after ``import kat``,
with ``timm.create_model("local-dir:FOLDER")``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError, unknown
from kat.files import replacing, write_text
from kat.models.kat import rational_parameter_names
from kat.nn import Coefficients, given_coefficients

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass
class ModelRecord:
    """What it takes to build a model again and to feed it.

    Args:
        architecture: name in timm's registry.
        args: arguments of its constructor; an ``act_init`` that is the path of a file is replaced
            by the coefficients that the file holds, so that the record stands alone.
        classes: the class names, in order of the logits.
        input_size: (channels, height, width) of its input.
        mean, std: of each channel.
        interpolation, crop_pct: of the evaluation transform.
    """

    architecture: str
    classes: list[str]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        init = self.args.get("act_init")
        if isinstance(init, str):
            init = given_coefficients(init)
        if isinstance(init, Coefficients):
            self.args = {**self.args, "act_init": init.to_dict()}

    def to_timm(self) -> dict[str, Any]:
        """The contents of timm's config.json."""
        return {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "label_names": self.classes,
            "model_args": self.args,
            "pretrained_cfg": {
                "input_size": list(self.input_size),
                "fixed_input_size": True,
                "interpolation": self.interpolation,
                "crop_pct": self.crop_pct,
                "mean": list(self.mean),
                "std": list(self.std),
                "num_classes": len(self.classes),
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        }

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> ModelRecord:
        """Reads what :meth:`to_timm` writes.

        Raises:
            InputError: an entry is missing.
        """
        try:
            recipe = config["pretrained_cfg"]
            channels, height, width = recipe["input_size"]
            names = config.get("label_names") or recipe.get("label_names")
            names = names or range(config["num_classes"])
            return cls(
                architecture=str(config["architecture"]),
                args=dict(config.get("model_args", {})),
                classes=[str(name) for name in names],
                input_size=(channels, height, width),
                mean=tuple(recipe["mean"]),
                std=tuple(recipe["std"]),
                interpolation=recipe["interpolation"],
                crop_pct=recipe["crop_pct"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a model's config.json: no valid entry {error}") from None


_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What timm and its models raise for arguments that make no sense."""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` with errors that a user can act on.

    Raises:
        InputError: an unknown name (with the nearest), or arguments that the model refuses.
    """
    if ":" not in name and not timm.is_model(name):
        raise unknown("model", name, timm.list_models())
    try:
        return timm.create_model(name, **kwargs)
    except _REFUSALS as error:
        reason = _first_line(error)
        raise InputError(f"model {name!r} cannot be built with {kwargs}: {reason}") from None


def build_model(record: ModelRecord, **kwargs: Any) -> nn.Module:
    """The model that a record describes, with fresh weights."""
    known = {"num_classes": len(record.classes), **_input_args(record)}
    return create_model(record.architecture, **{**known, **record.args, **kwargs})


def _input_args(record: ModelRecord) -> dict[str, Any]:
    channels, height, width = record.input_size
    recipe = timm.get_pretrained_cfg(record.architecture)
    sized = recipe is not None and recipe.fixed_input_size
    return {"in_chans": channels, **({"img_size": [height, width]} if sized else {})}


def save_model(model: nn.Module, record: ModelRecord, folder: Path) -> None:
    """Writes model.safetensors and config.json, each to a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        safetensors.torch.save_file(weights, partial, metadata={"format": "pt"})
    config = record.to_timm()
    args = {**_input_args(record), **record.args}
    args.pop("num_classes", None)  # transformers passes it beside model_args
    config["model_args"] = args
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_model(path: Path) -> tuple[nn.Module, ModelRecord]:
    """A trained model, ready to evaluate, and its record.

    Args:
        path: a folder with model.safetensors and config.json; a run's folder; or a ``.ckpt`` that
            a run has written.

    Raises:
        InputError: no model there, a damaged file, or weights of another model.
    """
    weights, record = _read(path)
    model = build_model(record)
    load_weights(model, weights, source=str(path))
    return model.eval(), record


def _read(path: Path) -> tuple[dict[str, Tensor], ModelRecord]:
    if path.suffix == ".safetensors":
        path = path.parent
    if path.is_dir() and not (path / WEIGHTS).is_file():
        if not (path / "best.ckpt").is_file():
            raise InputError(f"{path} holds no model: neither {WEIGHTS} nor best.ckpt is there")
        path = path / "best.ckpt"
    if path.is_dir():
        return read_state_dict(path / WEIGHTS), ModelRecord.from_timm(_read_json(path / CONFIG))
    checkpoint = read_training_checkpoint(path)
    record = ModelRecord(**checkpoint["hyper_parameters"]["record"])
    return {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items()}, record


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that a run has written: weights, record, epoch, and the trainer's state.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    checkpoint = _read_pickle(path)
    try:
        ModelRecord(**checkpoint["hyper_parameters"]["record"])
        checkpoint["state_dict"].items()
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path} is not a checkpoint that 'kat train' has written") from None
    return checkpoint


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing beside the weights") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a torch file, bare or under a usual key.

    Torch files are read with ``weights_only=True``: no code in them is ever run.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist") from None
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} is not a complete safetensors file: {error}") from None
    content = _read_pickle(path)
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        nested = content.get(key)
        content = nested if isinstance(nested, dict) else content
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    state = {
        name.removeprefix("module.").removeprefix("model."): value
        for name, value in tensors.items()
    }
    if not state:
        raise InputError(f"{path} holds no weights")
    return state


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        raise InputError(f"{path} is not a readable checkpoint: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    may_lack: frozenset[str] = frozenset(),
) -> None:
    """Copies weights into a model, all or nothing.

    Args:
        model: takes the weights.
        weights: by the names of the model's state dict.
        source: what to call them in an error.
        may_lack: names that may be missing, and then keep their values.

    Raises:
        InputError: missing, unexpected or misshapen entries; the first of each are listed, and
            the model is left as it was.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights and name not in may_lack]
    unexpected = [name for name in weights if name not in own]
    misshapen = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        parts = [f"{len(v)} {k} ({', '.join(v[:3])}, ...)" for k, v in problems.items() if v]
        raise InputError(f"{source} holds the weights of another model: {'; '.join(parts)}")
    model.load_state_dict(weights, strict=False)


def init_from_vit(model: VisionTransformer, source: str) -> list[str]:
    """Starts a KAT from a trained ViT: all that the two have in common is carried over.

    Attention, norms, embeddings, fc1 and fc2 have the same names and shapes in both; position and
    patch embeddings are resampled where sizes differ, and the head is kept only if it has as many
    classes. The rationals stay as initialised: the identity, and Swish or GELU.

    Args:
        model: a model in timm's ViT layout.
        source: a file (``.safetensors``, or a torch file), or the name of a pretrained timm model.

    Returns:
        The names that were not carried over.

    Raises:
        InputError: no such file or model, or weights that are not those of a ViT of this size.
    """
    path = Path(source)
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin") or path.exists():
        weights = read_state_dict(path)
    else:
        weights = _pretrained(source)
    if not any(name.startswith("blocks.0.attn.") for name in weights):
        raise InputError(f"{source} does not hold a ViT in timm's layout")
    weights = checkpoint_filter_fn(weights, model)
    own = model.state_dict()
    head = {name for name in own if name.startswith("head.")}
    if any(name in weights and weights[name].shape != own[name].shape for name in head):
        weights = {name: value for name, value in weights.items() if name not in head}
    fresh = (rational_parameter_names(model) | head) - set(weights)
    load_weights(model, weights, source=source, may_lack=frozenset(fresh))
    return sorted(fresh)


def _pretrained(name: str) -> dict[str, Tensor]:
    if not timm.is_model(name):
        raise unknown("model (nor is there a file of this name)", name, timm.list_models())
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # the hub client raises its own kinds, not all of them OSError
        raise InputError(f"the weights of {name!r} cannot be had: {_first_line(error)}") from None
