"""Names the command that installs what an example lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed() -> Iterator[None]:
    """Imports of packages that the extra [domains] brings.

    Raises:
        SystemExit: one is missing; the line names it, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"the package {error.name} is missing:"
            ' pip install "kolmogorov-arnold-transformer[domains]"'
        ) from None
