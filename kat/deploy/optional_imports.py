"""Imports of the optional packages of deployment."""

from __future__ import annotations

import importlib
from typing import Any

from kat.errors import InputError


def require(name: str, purpose: str) -> Any:
    """Imports an optional package.

    Args:
        name: the name of the package.
        purpose: what needs it, the subject of the error.

    Raises:
        InputError: it is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the package {name} ({error}): "
            'pip install "kolmogorov-arnold-transformer[export]"'
        ) from None
