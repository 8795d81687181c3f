"""The ``kat`` command, outside the package, which imports torch unless this file is loaded."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: see :func:`kat.cli.main.main`."""
    from kat.cli.main import main

    return main(arguments)


if __name__ == "__main__":
    import kat_command  # by its name, which kat looks for

    raise SystemExit(kat_command.main())
