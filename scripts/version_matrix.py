"""Tests the wheel with the lowest and the newest versions of what it needs, on several Pythons.

    python scripts/version_matrix.py dist/*.whl --csv benchmarks/results/version_matrix.csv
    python scripts/version_matrix.py dist/*.whl --rows 3.11/lowest-direct 3.14/highest

Each row makes an environment with uv, tests the wheel in it, and deletes it again: about 7 GB with
torch's CUDA libraries. ``lowest-direct`` takes the lower bound of every dependency in
pyproject.toml, ``highest`` the newest release that the upper bounds allow.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from installed import ROOT, check_install, run_tests

ROWS = ("3.11/lowest-direct", "3.11/highest", "3.13/highest", "3.14/highest")
TESTS = ["tests/ops", "tests/nn", "tests/models"]
INTERPRETED = ["tests/ops/triton/interpreted.py", "tests/ops/triton/interpreted_gated.py"]
EMULATED = ["-p", "tests.ops.triton.emulated", "@tests/ops/triton/emulated.txt"]
"""The GPU kernels without a GPU, as ``make test`` runs them."""
SHOWN = ("torch", "torchvision", "timm", "triton", "numpy")
"""The packages whose versions stand in the table."""
VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(version(name))
    except PackageNotFoundError:
        print("-")
"""


def main() -> int:
    """The exit code: 0 if every test of every row passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="PYTHON/RESOLUTION")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    parser.add_argument("-m", dest="marker", default="", help="as for pytest (default: all)")
    parser.add_argument(
        "--csv", type=Path, help="put the rows into this table, which may have others"
    )
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="version-matrix-") as folder:
        os.environ["UV_CACHE_DIR"] = str(Path(folder) / "cache")
        for name in options.rows:
            python, resolution = name.split("/")
            row = test_row(options, python, resolution, Path(folder) / "env")
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            failed |= row["failed"] != "0"
            if options.csv:
                replace(options.csv, row)
    return int(failed)


def test_row(
    options: argparse.Namespace, python: str, resolution: str, env: Path
) -> dict[str, str]:
    """Installs the wheel with the versions of a row, tests it, and removes it again.

    Returns:
        The line of the table, by column.
    """
    interpreter = env / "bin" / "python"
    uv("venv", "--python", python, env)
    # A wheel's own requirements are not direct ones, so they are read from pyproject.toml.
    install = ("pip", "install", "--python", interpreter)
    project = ("-r", ROOT / "pyproject.toml", "--extra", "dev")
    uv(*install, "--resolution", resolution, *project)
    uv(*install, "--no-deps", options.wheel.resolve())
    check_install(interpreter)
    versions = subprocess.run(
        [interpreter, "-c", VERSIONS, *SHOWN], check=True, capture_output=True, text=True
    ).stdout.split()
    outcomes = [
        run_tests(interpreter, options.tests, options.marker),
        run_tests(interpreter, INTERPRETED, options.marker, TRITON_INTERPRET="1"),
        run_tests(interpreter, EMULATED, "release or not release"),
    ]
    shutil.rmtree(env)
    return {
        "python": python,
        "resolution": resolution,
        **dict(zip(SHOWN, versions, strict=True)),
        "passed": str(sum(outcome.passed for outcome in outcomes)),
        "failed": str(sum(outcome.failed or outcome.code != 0 for outcome in outcomes)),
        "skipped": str(sum(outcome.skipped for outcome in outcomes)),
    }


def uv(*arguments: str | Path) -> None:
    """Calls uv, which stands beside this interpreter or on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = shutil.which("uv", path=path)
    if command is None:
        raise SystemExit("uv is missing: pip install .[release]")
    subprocess.run([command, *arguments], check=True)


def replace(path: Path, row: dict[str, str]) -> None:
    """Puts a row into a table, in the place of the one for the same Python and resolution."""
    rows = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = {(old["python"], old["resolution"]): old for old in csv.DictReader(file)}
    rows[row["python"], row["resolution"]] = row
    draft = path.with_suffix(".partial")
    with draft.open("w", newline="") as file:
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        table.writeheader()
        table.writerows(rows.values())
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
