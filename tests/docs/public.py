"""The public names, with the docstrings that stand in the source."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the docs extra is not installed")

ROOT = Path(__file__).parents[2]


def _structure():
    """``scripts/structure.py``, which knows what is public."""
    if "structure" not in sys.modules:
        sys.path.insert(0, str(ROOT / "scripts"))
        importlib.import_module("structure")
    return sys.modules["structure"]


def public_objects() -> dict:
    """Each public name, such as ``kat.nn.gain``, and what it means."""
    structure = _structure()
    package = griffe.load("kat", search_paths=[str(ROOT)])
    names = structure.public_names(structure.read_modules(ROOT))
    return {name: target(package, name) for name in names}


def target(package, name: str):
    """What a name means; where a module and a member of it share a name, the member."""
    found = package[name.partition(".")[2]]
    found = found.final_target if found.is_alias else found
    last = name.rpartition(".")[2]
    member = found.members.get(last) if found.is_module else None
    return member if member is not None and not member.is_alias else found
