"""Serves the names of the published packages: a finder of modules in ``sys.meta_path``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

KERNELS = ("kat_rational", "rational_kat")
"""The packages with kernels. A module in one of them has the names of the package here."""
VENDORED = {**{name: name for name in KERNELS}, "katransformer": "katransformer"}
VENDORED["rational_kat_cu"] = "kat_rational"
"""The packages that lie in others, too, as ``models.kat_rational``, and their modules here."""

_FOUND = (
    "kat.compat: {} is installed ({}) and is used, not kat; import kat.compat.force before it to"
    " use kat\n"
)


def published(name: str) -> str | None:
    """Return the package of a module: ``kat_rational`` for ``models.kat_rational.fit``."""
    parts = name.split(".")
    if parts[:2] == ["kat", "compat"]:
        return None
    vendored = [part for part in parts if part in VENDORED]
    if vendored:
        return vendored[-1]
    if name.startswith(("ikan.kat_", "ikan.rational_")):  # its copies of the kernels
        return "kat_rational"
    served = parts[0] == "ikan" or name in ("rational", "rational.torch")
    return parts[0] if served else None


def module_of(package: str) -> ModuleType:
    """Return the module of kat.compat that has the names of a published package."""
    return import_module(f"kat.compat.{VENDORED.get(package, package)}")


def absent(module: str, name: str, source: ModuleType) -> str:
    """Return the line that says that a published module has no such name here."""
    (nearest,) = difflib.get_close_matches(name, source.__all__, 1, cutoff=0)
    return (
        f"{module} has no {name} in kat.compat, which has {', '.join(source.__all__)}: write, for"
        f" example, `from {module} import {nearest}`"
    )


class _Finder:
    """Finds the published modules that nothing else finds; all with kernels if ``forced``."""

    forced = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a module that is served."""
        package = published(name)
        if package is None:
            return None
        if not (self.forced and package in KERNELS):
            others = [finder for finder in sys.meta_path if finder is not self]
            specs = [finder.find_spec(name, path, target) for finder in others]
            last = name.rpartition(".")[2]  # a folder without a file is not a package of kernels
            found = [spec for spec in specs if spec and (spec.origin or last not in KERNELS)]
            if found:
                if last == package and found[0].origin:
                    sys.stderr.write(_FOUND.format(name, found[0].origin))
                return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Create an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the names into a module."""
        name = module.__name__
        if name == "ikan":
            import_module("ikan.GroupKAN")  # before the class of this name
        source = module_of(str(published(name)))
        names = {each: getattr(source, each) for each in source.__all__}
        vars(module).update(names, __getattr__=partial(_refuse, name, source))


FINDER = _Finder()


def _refuse(module: str, source: ModuleType, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    raise ImportError(absent(module, name, source), name=module)
