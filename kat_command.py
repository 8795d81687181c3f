"""The ``kat`` command, outside the package, which imports torch unless this file is loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: see :func:`kat.cli.main.main`."""
    found, own = find_spec("kat"), Path(__file__).with_name("kat")
    if found and found.origin and own.is_dir() and not own.samefile(Path(found.origin).parent):
        sys.stderr.write(
            f"kat: `import kat` finds {found.origin!r} in the place of the library, {str(own)!r}:"
            " unset PYTHONPATH, and 'kat compat PROJECT' says what to rename\n"
        )
        return 2
    from kat.cli.main import main

    return main(arguments)


if __name__ == "__main__":
    import kat_command  # by its name, which kat looks for

    raise SystemExit(kat_command.main())
