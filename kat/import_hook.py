"""Import a module of kat with a package that people import before kat, after it, or never.

``kat.models`` registers its models with timm, and ``kat.ops.flops`` its formulas with
``torch.utils.flop_counter``. ``import kat`` imports neither of these: timm may be missing and takes
a second, and the counter imports Triton.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_with(module: str, package: str) -> None:
    """Import a module as soon as a package is imported: now if it is already, else right after.

    Args:
        module: imported, unless it is already; it may import the package itself.
        package: the name of a package that need not be installed.
    """
    if package in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _Hook(module, package))


class _Hook:
    """A finder of modules that imports ``module`` once ``package`` has run."""

    def __init__(self, module: str, package: str) -> None:
        self.module = module
        self.package = package

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find the package as the other finders do."""
        if name != self.package:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                loader: Any = spec.loader
                loader.exec_module = partial(self._execute, loader.exec_module)
                return spec
        return None

    def _execute(self, run: Callable[[ModuleType], None], package: ModuleType) -> None:
        run(package)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            importlib.import_module(self.module)
