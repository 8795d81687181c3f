"""Models on disk: a folder with model.safetensors and config.json, in timm's Hub format.

:func:`load_model` loads such a folder, and so does any timm program after ``import kat``, with
``timm.create_model("local-dir:FOLDER")``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kat.documents import read_json, write_json
from kat.errors import CheckpointFailed, InputError, MissingFile
from kat.files import replacing
from kat.models.checkpoints.checksum import NO_CHECKSUM, verify_checksum, write_checksum
from kat.models.checkpoints.model_record import ModelRecord, build_model, registered_preprocessing
from kat.models.checkpoints.shipped import model_path, suggestion
from kat.models.checkpoints.weight_files import (
    CONFIG,
    WEIGHTS,
    canonical,
    check_match,
    is_coefficient,
    read_torch_file,
    read_weights,
    warn_without,
)
from kat.settings import record_from
from kat.text import listing, numbered

BEST = "best.ckpt"

_RELEASED = {
    192: "kat_tiny_patch16_224",
    384: "kat_small_patch16_224",
    768: "kat_base_patch16_224",
}
"""The official models by their width."""


def save_model(model: nn.Module, record: ModelRecord, folder: str | Path) -> None:
    """Write model.safetensors, with a checksum, and config.json, each completely or not at all.

    config.json holds the checksum, too, as ``sha256``. While one model replaces another, it keeps
    the old record as ``previous``, so the record of the weights in the folder is always there.

    Raises:
        CheckpointFailed: the disk is full.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import load_model, save_model
        >>> save_model(*load_model(Path("runs/digits")), Path("copy"))
        >>> sorted(path.name for path in Path("copy").iterdir())
        ['config.json', 'model.safetensors']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    content: dict[str, Any] = record.to_timm()
    # Copies: safetensors refuses tensors that share memory, as tied ones do.
    weights = {name: t.cpu().contiguous().clone() for name, t in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # by the umask; safetensors makes its files private
        metadata = {"format": "pt", "sha256": NO_CHECKSUM}
        try:
            safetensors.torch.save_file(weights, partial, metadata=metadata)
            content["sha256"] = write_checksum(partial)
        except (OSError, safetensors.SafetensorError) as error:  # a full disk
            raise CheckpointFailed(f"{folder / WEIGHTS} cannot be written: {error}") from None
        partial.chmod(mode)
        previous = {}
        with suppress(InputError):  # there is none that can be read
            previous = {"previous": read_json(config)}
        write_json(config, {**content, **previous})
    if previous:
        write_json(config, content)


def load_model(path: str | Path) -> tuple[nn.Module, ModelRecord]:
    """Load a trained model, in evaluation mode, and its record.

    Args:
        path: a folder with model.safetensors and config.json; a ``.safetensors`` file beside a
            config.json; a run directory; a ``.ckpt`` file of a run; ``"digits"``, the model that
            comes with the library, unless a file or folder has that name; or a file of an official
            KAT, whose size is read from the weights and whose preprocessing is the published one.

    Raises:
        InputError: there is no model, the file is damaged, or the weights are of another model.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.models import load_model
        >>> model, record = load_model(Path("runs/digits"))
        >>> model(torch.zeros(1, *record.input_size)).shape, len(record.classes)
        (torch.Size([1, 10]), 10)
    """
    file = _file_in(model_path(path))
    if not file.exists():
        raise MissingFile(path, f"it does not exist{suggestion(path)}")
    weights, record, checksum = _read(file)
    depth = record.args.get("depth")
    # Compared first: to build a thousand blocks takes half a minute.
    blocks = [name for name in weights if "blocks." in name]
    if isinstance(depth, int) and blocks and not any(f".{depth - 1}." in name for name in blocks):
        raise InputError(
            f"{path} holds the weights of another model: its record says depth={depth}, and they"
            " have fewer blocks"
        )
    with torch.device("meta"):  # the record may ask for more memory than its weights take
        check_match(build_model(record), weights, str(path))
    model = build_model(record)
    model.load_state_dict(weights)
    warn_without(checksum, file)
    return model.eval(), record


def is_model_folder(path: str | Path) -> bool:
    """Return True if :func:`load_model` can load a folder: a run directory, or one with a model.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import is_model_folder
        >>> is_model_folder(Path("runs/digits")), is_model_folder(Path("photos"))
        (True, False)
    """
    return any(Path(path, name).is_file() for name in (WEIGHTS, BEST))


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a run: weights, record, epoch, and the state of training.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, damaged, or something else.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import read_training_checkpoint
        >>> sorted(read_training_checkpoint(Path("runs/digits/last.ckpt")))[:3]
        ['callbacks', 'optimizer', 'optimizer_state']
    """
    checkpoint = _read_with_checksum(Path(path))
    if "record" not in checkpoint:
        raise InputError(f"{path} is not a checkpoint that 'kat train' has written")
    return checkpoint


def record_of_released(weights: Mapping[str, Tensor]) -> ModelRecord | None:
    """Return the record of an official KAT, recognized by its width; None for any other model."""
    shapes = [weights[n].shape for n in ("norm.weight", "pos_embed", "head.weight") if n in weights]
    whole = [len(shape) for shape in shapes] == [1, 3, 2] and any(map(is_coefficient, weights))
    if not whole or shapes[0][0] not in _RELEASED:
        return None
    (width,), (_, tokens, _), (classes, _) = shapes
    size = 16 * math.isqrt(tokens - 1)
    recipe = {**registered_preprocessing(_RELEASED[width]), "input_size": (3, size, size)}
    return ModelRecord(_RELEASED[width], classes=numbered(classes), **recipe)


def _read(path: Path) -> tuple[dict[str, Tensor], ModelRecord, str | None]:
    """Weights and record of a file, and its checksum if it is a safetensors file."""
    checksum = None
    if path.suffix == ".safetensors":
        weights, content, checksum = read_weights(path)
        if path.name == WEIGHTS or content is not None:
            config = path.with_name(CONFIG)
            content = content or read_json(config)  # says that it is missing
            return weights, ModelRecord.from_timm(content, config), checksum
    else:
        checkpoint = _read_with_checksum(path)
        weights = canonical(checkpoint)
        if "record" in checkpoint:
            return weights, record_from(ModelRecord, checkpoint["record"], path), None
    released = record_of_released(weights)
    if released is None:
        raise InputError(
            f"{path} is neither a checkpoint that 'kat train' has written nor an official KAT's:"
            f" nothing says what model its weights ({listing(weights) or 'none'}) belong to;"
            " load them into that model, and give it; 'kat convert' makes a KAT of a ViT"
        )
    return weights, released, checksum


def _file_in(folder: Path) -> Path:
    """Return the weights in a folder, or the file that is given for one."""
    if not folder.is_dir():
        return folder
    for name in (WEIGHTS, BEST):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds no model: neither {WEIGHTS} nor {BEST} is there")


def _read_with_checksum(path: Path) -> dict[str, Any]:
    """Return the content of a torch file; one of 'kat train' must have a checksum."""
    checksum = verify_checksum(path)
    content = read_torch_file(path)
    if not checksum and {"record", "run_id"} <= content.keys():
        raise InputError(f"{path} is damaged: the checksum at its end is missing")
    return content
