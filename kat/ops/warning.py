"""Warnings that the reference runs where a kernel could."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def warn_once(message: str, kind: type[Warning] = UserWarning) -> None:
    """Show a warning, once in a process."""
    warnings.warn(message, kind, stacklevel=3)
