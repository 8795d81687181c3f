"""A wheel as its users get it: installed in an environment that does not see the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
CHECK = """
import sys, torch, kat
from pathlib import Path
from kat.ops.cpu import build, library

found = library.find_library()
assert isinstance(found, library.Library), found
for path in (kat.__file__, found.path):
    assert Path(sys.prefix) in Path(path).parents, f"{path} is used, which is not in {sys.prefix}"
assert found.path == build.PREBUILT, f"{found.path} is loaded, not the library of the package"
x = torch.linspace(-3, 3, 64).reshape(4, 16)
a, b = torch.linspace(-1, 1, 6)[None], torch.linspace(-0.5, 1, 32).reshape(8, 4)
expected = kat.rational(x, a, b, impl="reference")
torch.testing.assert_close(kat.rational(x, a, b, impl="cpu"), expected)
print("the packaged library has", ", ".join(found.available), "and runs", found.name)
"""


@dataclass(frozen=True)
class Outcome:
    """How many tests passed, failed and were skipped, and the exit code of pytest."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    code: int


def check_install(python: Path) -> None:
    """Checks that kat and its library come from the environment of this interpreter, and work.

    Raises:
        SystemExit: they do not; the interpreter has printed why.
    """
    with tempfile.TemporaryDirectory() as folder:  # the checkout must not be the current folder
        if subprocess.run([python, "-c", CHECK], cwd=folder).returncode:
            raise SystemExit(f"the wheel does not work in {python}")


def run_tests(python: Path, tests: list[str], marker: str, **variables: str) -> Outcome:
    """Runs tests of the checkout from a copy, with the interpreter of an environment.

    Args:
        python: the interpreter.
        tests: paths of files or folders, from the root of the checkout.
        marker: as pytest's ``-m``; empty for all.
        variables: of the process's environment, beside those that there are.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left_out = shutil.ignore_patterns("__pycache__", "results")
        for part in ("tests", "benchmarks", "examples"):  # some tests run the others
            shutil.copytree(ROOT / part, folder / part, ignore=left_out)
        shutil.copy(ROOT / "pyproject.toml", folder)
        report = folder / "report.xml"
        options = ["-q", "-m", marker, "-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [python, "-m", "pytest", *options, *tests]
        code = subprocess.run(command, cwd=folder, env={**os.environ, **variables}).returncode
        return read_report(report, code)


def read_report(path: Path, code: int) -> Outcome:
    """The outcome of a run from pytest's JUnit report."""
    suite = next(ElementTree.parse(path).iter("testsuite"))
    total, errors, failures, skipped = (
        int(suite.attrib[key]) for key in ("tests", "errors", "failures", "skipped")
    )
    failed = errors + failures
    return Outcome(total - failed - skipped, failed, skipped, float(suite.attrib["time"]), code)
