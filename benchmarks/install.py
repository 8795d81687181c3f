"""What each extra installs beyond torch, and how long ``import kat`` takes beyond ``import torch``.

For torch alone, the core and each extra, uv (``pip install uv``) makes a clean environment with a
wheel of this checkout. Packages and their sizes are those that torch's environment lacks, without
kat itself; the times are medians over rounds in which every environment starts Python once. uv's
own settings (UV_FIND_LINKS, UV_INDEX) say where the wheels of torch are.

python benchmarks/install.py --before REVISION --csv benchmarks/results/install.csv
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import torch
from timing import print_table, write_csv

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEVELOPERS = {"dev", "docs", "release"}
EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra not in DEVELOPERS]

SIZES = """
import json
from importlib.metadata import distributions
print(json.dumps({
    d.metadata["Name"]: sum(p.stat().st_size for f in d.files or () if (p := f.locate()).is_file())
    for d in distributions()
}))
"""
SECONDS = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import kat
print(time.perf_counter() - middle)
"""
COLUMNS = ("extra", "packages", "MB", "import kat, s")


def main() -> None:
    """Installs, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default=torch.__version__, metavar="VERSION")
    parser.add_argument("--extras", nargs="*", default=EXTRAS, help="default: those of users")
    parser.add_argument("--before", metavar="REVISION", help="also measure this commit's core")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def measure(folder: Path, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """The rows of the table."""
    wheel = build_wheel(ROOT, folder / "wheel")
    wanted = {"(core)": str(wheel)}
    wanted |= {extra: f"{PROJECT['name']}[{extra}] @ {wheel.as_uri()}" for extra in options.extras}
    if options.before:
        wanted["(before)"] = str(build_wheel(checkout(options.before, folder), folder / "old"))
    pinned = f"torch=={options.torch}"
    base = sizes(make_environment(folder / "torch", [pinned]))
    pythons = {
        name: make_environment(folder / f"environment{index}", [pinned, requirement])
        for index, (name, requirement) in enumerate(wanted.items())
    }
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    for turn in range(options.rounds + 1):  # the first one compiles the modules
        for name, python in pythons.items():
            taken = float(run(str(python), "-W", "ignore", "-c", SECONDS))
            seconds[name] += [taken] if turn else []
    rows = []
    for name, python in pythons.items():
        more = {d: size for d, size in sizes(python).items() if d not in {*base, PROJECT["name"]}}
        total = sum(more.values()) / 1e6
        median = statistics.median(seconds[name])
        rows.append((name, str(len(more)), f"{total:.0f}", f"{median:.2f}"))
    return rows


def checkout(revision: str, folder: Path) -> Path:
    """The files of a commit."""
    archive, target = folder / "old.tar", folder / "checkout"
    target.mkdir()
    run("git", "-C", str(ROOT), "archive", "--output", str(archive), revision)
    run("tar", "-xf", str(archive), "-C", str(target))
    return target


def build_wheel(source: Path, out: Path) -> Path:
    """A wheel of a checkout."""
    run("uv", "build", "--wheel", "--quiet", "--out-dir", str(out), str(source))
    return next(out.glob("*.whl"))


def make_environment(folder: Path, requirements: list[str]) -> Path:
    """The Python of a new environment with these packages."""
    run("uv", "venv", "--quiet", "--python", sys.executable, str(folder))
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    run("uv", "pip", "install", "--quiet", "--python", str(python), *requirements)
    return python


def sizes(python: Path) -> dict[str, int]:
    """The bytes of each package of an environment."""
    found: dict[str, int] = json.loads(run(str(python), "-c", SIZES))
    return found


def run(*command: str) -> str:
    """Runs a command elsewhere than here, so that Python does not find this checkout."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
