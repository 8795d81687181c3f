"""The public names, with the docstrings that stand in the source."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the docs extra is not installed")

ROOT = Path(__file__).parents[2]


def imported(name: str, folder: str = "scripts"):
    """A module of scripts/, or of a folder in it."""
    if name not in sys.modules:
        sys.path.insert(0, str(ROOT / folder))
        importlib.import_module(name)
    return sys.modules[name]


def public_objects() -> dict:
    """Each public name, such as ``kat.nn.gain``, and what it means."""
    package = griffe.load("kat", search_paths=[str(ROOT)])
    found = {}
    waiting = [package]
    while waiting:
        module = waiting.pop()
        waiting += [member for member in module.modules.values() if not member.is_alias]
        if module.is_init_module:
            found |= {f"{module.path}.{name}": module[name] for name in module.exports or ()}
    return {name: each.final_target if each.is_alias else each for name, each in found.items()}
