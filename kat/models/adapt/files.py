"""The folder of adapters: ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kat.documents import read_json
from kat.errors import InputError, UnreadableFile
from kat.extras import require
from kat.files import check_folder, open_input, replacing, write_text

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEY = "kat_adapter"
"""Of the version in a record."""
_CONFIG_LIMIT = 1 << 24


def write(folder: Path, record: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Writes both files, each completely or not at all; with several processes, the first does.

    Raises:
        InputError: the folder cannot be written.
        MissingPackage: safetensors is missing.
    """
    safetensors = require("safetensors.torch", "saving adapters")
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}
    with replacing(folder / WEIGHTS) as partial:
        safetensors.save_file(tensors, partial, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``adapter_config.json``.

    Raises:
        InputError: it cannot be read, or is PEFT's.
    """
    content = read_json(folder / CONFIG, _CONFIG_LIMIT)
    if not isinstance(content, dict) or KEY not in content:
        hint = "PEFT's: peft.PeftModel.from_pretrained loads it" if _is_peft(content) else "others'"
        raise InputError(f"{folder / CONFIG} is not of kat.adapt, but {hint}")
    return content


def read_state(folder: Path) -> dict[str, Tensor]:
    """The tensors in ``adapter_model.safetensors``.

    Raises:
        InputError: it cannot be read.
        MissingPackage: safetensors is missing.
    """
    path = folder / WEIGHTS
    safetensors = require("safetensors.torch", "loading adapters")
    open_input(path).close()
    try:
        return dict(safetensors.load_file(path))
    except Exception as error:  # SafetensorError, of a damaged file, has no public base class
        raise UnreadableFile(path, str(error)) from None


def _is_peft(content: object) -> bool:
    return isinstance(content, dict) and "peft_type" in content
