"""Names the command that installs what an example lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRA = 'pip install "kolmogorov-arnold-transformer[domains]"'
BESIDE_THE_EXTRA = {"aeon": "pip install --no-deps aeon"}
"""By package, the command for one that is not in the extra.

aeon 1.6 wants an older pandas and numba than the other packages bring. What the examples use of it
works with the newer ones, so that it is installed without what it requires.
"""


@contextmanager
def needed() -> Iterator[None]:
    """Imports of packages that the extra [domains] brings, or a command of its own.

    Raises:
        SystemExit: one is missing; the line names it, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or "").partition(".")
        command = BESIDE_THE_EXTRA.get(package, EXTRA)
        raise SystemExit(f"the package {package} is missing: {command}") from None
