"""``python -m kat.compat script.py``: runs a script that imports a published package."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from kat.text import say

_USAGE = "usage: python -m kat.compat (SCRIPT | -m MODULE) [ARGUMENTS]"


def main() -> None:
    """Run the script as ``python script.py`` would, or a module after ``-m``."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        say(_USAGE)
        return
    if arguments in ([], ["-m"]):
        sys.exit(_USAGE)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, "")
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(
            f"python -m kat.compat: {script} does not exist; to check a project: kat compat PROJECT"
        )
    sys.argv = arguments
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
