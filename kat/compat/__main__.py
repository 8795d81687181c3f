"""``python -m kat.compat script.py [arguments]``: runs a script that imports ``kat_rational``."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import kat.compat  # noqa: F401 (provides kat_rational)


def main() -> None:
    """Runs the script as ``python script.py`` would, or a module after ``-m``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        sys.exit("usage: python -m kat.compat (SCRIPT | -m MODULE) [ARGUMENTS]")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, "")
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f"python -m kat.compat: {script} does not exist")
    sys.argv = arguments
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
