"""Finds stored models in folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kat.models import is_model_folder
from kat.training.run_directory import SETTINGS

_ENDINGS = (".ckpt", ".safetensors", ".pth", ".pth.tar", ".pt", ".pt2", ".onnx")


def find_checkpoints(given: Sequence[Path]) -> list[Path]:
    """Expands paths to the stored models that they refer to, without duplicates.

    A run directory or a model folder is kept. Any other folder is replaced by the weight files and
    model folders directly in it, in natural order, or kept if there are none.
    """
    found = [inner for path in given for inner in _inside(path)]
    return list(dict.fromkeys(found))


def _inside(path: Path) -> list[Path]:
    if not path.is_dir() or is_model_folder(path) or (path / SETTINGS).is_file():
        return [path]
    inner = [p for p in path.iterdir() if is_model_folder(p) or _is_weights(p)]
    return sorted(inner, key=_natural) or [path]


def _is_weights(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_ENDINGS) and not path.name.startswith(".")


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts epoch=9 before epoch=10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
