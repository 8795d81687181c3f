"""Models on disk: a folder with model.safetensors and config.json, in timm's hub format.

Such a folder loads here with :func:`load_model`, and in any timm program, after ``import kat``,
with ``timm.create_model("local-dir:FOLDER")``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from kat.checksum import check_seal
from kat.errors import InputError
from kat.files import replacing, write_text
from kat.models.checkpoints.record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.state_dict import (
    canonical,
    is_coefficient,
    load_weights,
    read_state_dict,
    read_torch_file,
    weight_sets,
)

WEIGHTS, CONFIG, BEST = "model.safetensors", "config.json", "best.ckpt"

_RELEASED = {
    192: "kat_tiny_patch16_224",
    384: "kat_small_patch16_224",
    768: "kat_base_patch16_224",
}
"""The official models by their width."""


def save_model(model: nn.Module, record: ModelRecord, folder: Path) -> None:
    """Writes model.safetensors and config.json, each to a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # the umask's, where safetensors makes its files private
        safetensors.torch.save_file(weights, partial, metadata={"format": "pt"})
        partial.chmod(mode)
    write_text(folder / CONFIG, json.dumps(record.to_timm(), indent=2) + "\n")


def load_model(path: Path) -> tuple[nn.Module, ModelRecord]:
    """A trained model, ready to evaluate, and its record.

    Args:
        path: a folder with model.safetensors and config.json; a ``.safetensors`` file with
            config.json beside it; a run's folder; a ``.ckpt`` that a run has written; or a file of
            an official KAT (its size and the published preprocessing go with it).

    Raises:
        InputError: no model there, a damaged file, or weights of another model.
    """
    weights, record = _read(path)
    model = build_model(record)
    load_weights(model, weights, source=str(path))
    return model.eval(), record


def is_model_folder(path: Path) -> bool:
    """Whether :func:`load_model` takes a folder: a run's, or one with a model."""
    return any((path / name).is_file() for name in (WEIGHTS, BEST))


def _read(path: Path) -> tuple[dict[str, Tensor], ModelRecord]:
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz":
        raise InputError(
            f"{path} is an .npz file, as Google's ViTs are; 'kat convert' makes a KAT of one"
        )
    if path.suffix == ".safetensors":
        if path.name == WEIGHTS or (path.parent / CONFIG).is_file():
            return _read_with_config(path)
        return _read_released(read_state_dict(path), path)
    check_seal(path)
    checkpoint = read_torch_file(path)
    if _is_training_checkpoint(checkpoint):
        return canonical(checkpoint["state_dict"]), _record_of(checkpoint)
    return _read_released(canonical(checkpoint), path)


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], ModelRecord]:
    if (folder / WEIGHTS).is_file():
        return _read_with_config(folder / WEIGHTS)
    if not (folder / BEST).is_file():
        raise InputError(f"{folder} holds no model: neither {WEIGHTS} nor {BEST} is there")
    return _read(folder / BEST)


def _read_with_config(path: Path) -> tuple[dict[str, Tensor], ModelRecord]:
    """The weights of this file, whose record is the config.json beside it."""
    weights, config = read_state_dict(path), path.parent / CONFIG
    content = _read_json(config)
    try:
        return weights, ModelRecord.from_timm(content)
    except InputError as error:
        raise InputError(f"{config}: {error}") from None


def _read_released(weights: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], ModelRecord]:
    """The weights of an official model, which come without a record, and the record due to them."""
    record = record_of_released(weights)
    if record is None:
        raise InputError(
            f"{path} is neither a checkpoint that 'kat train' has written nor an official KAT's:"
            " nothing says what model its weights are of"
        )
    return weights, record


def record_of_released(weights: Mapping[str, Tensor]) -> ModelRecord | None:
    """The record of an official KAT, known by its width; None where the weights are not one's."""
    shapes = [weights[n].shape for n in ("norm.weight", "pos_embed", "head.weight") if n in weights]
    whole = [len(shape) for shape in shapes] == [1, 3, 2] and any(map(is_coefficient, weights))
    if not whole or shapes[0][0] not in _RELEASED or shapes[1][1] < 2:
        return None
    (width,), (_, tokens, _), (classes, _) = shapes
    name = _RELEASED[width]
    size = 16 * math.isqrt(tokens - 1)
    return ModelRecord(
        architecture=name,
        classes=[str(index) for index in range(classes)],
        **{**registered_preprocessing(name), "input_size": (3, size, size)},
    )


def read_training_checkpoint(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """A checkpoint that a run has written: weights, record, epoch, and the trainer's state.

    Args:
        path: the file.
        sealed: whether one without a checksum is refused.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    check_seal(path, required=sealed)
    checkpoint = read_torch_file(path)
    if not _is_training_checkpoint(checkpoint):
        raise InputError(f"{path} is not a checkpoint that 'kat train' has written")
    return checkpoint


def _is_training_checkpoint(checkpoint: Mapping[str, Any]) -> bool:
    try:
        _record_of(checkpoint)
        checkpoint["state_dict"].items()
    except (AttributeError, KeyError, TypeError):
        return False
    return True


def _record_of(checkpoint: Mapping[str, Any]) -> ModelRecord:
    """The record in a training checkpoint; older ones hold it in hyper_parameters."""
    content = checkpoint if "record" in checkpoint else checkpoint["hyper_parameters"]
    return ModelRecord(**content["record"])


def stored_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that :func:`load_model` reads, and what else of the kind the file has.

    Returns:
        The tensors by name, and the usual keys of further sets of weights (e.g. ``"state_dict"``
        beside ``"state_dict_ema"``), which are not used.

    Raises:
        InputError: there are none.
    """
    weights, _ = _read(path)
    file = path / WEIGHTS if (path / WEIGHTS).is_file() else path / BEST if path.is_dir() else path
    sets = [] if file.suffix == ".safetensors" else weight_sets(read_torch_file(file))
    return weights, sets[1:]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing beside the weights") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
