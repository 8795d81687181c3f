"""The size of the code: a change that adds lines takes as many out elsewhere."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KAT = {
    "ops": 2460, "nn": 2400, "models": 4200, "data": 2850, "training": 4900, "analysis": 2760,
    "deploy": 750, "cli": 1560, "compat": 250, "recipes": 0, "": 970,
}  # fmt: skip
"""Code lines of each package of kat, and of the modules that stand beside the packages.

A line of code holds a token that is neither a comment nor part of a docstring; a string that
documents an attribute is a docstring. Lines move from one package to another in a commit of their
own, and the sum, at most 23,100, never rises.
"""
TESTS, BESIDE, CPP = 26_500, 9_500, 2_000
"""The same for tests; for scripts, examples and benchmarks together; and for C++."""
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Count the lines of Python code in a file."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines -= {*range(node.lineno, (node.end_lineno or 0) + 1)}
    return len(lines)


def _sum(*folders: str, pattern: str = "**/*.py") -> int:
    files = [path for folder in folders for path in (ROOT / folder).glob(pattern)]
    return sum(code_lines(path.read_text()) for path in files)


def test_a_line_of_code():
    source = (
        '''"""Doc."""\n# comment\nx = [\n    1,  # one\n]\n"""Of x."""\ndef f():\n    """f."""\n'''
    )
    assert code_lines(source) == 4


@pytest.mark.parametrize("package", KAT)
def test_packages_keep_to_their_budget(package):
    pattern = "**/*.py" if package else "*.py"
    assert _sum(f"kat/{package}", pattern=pattern) <= KAT[package]
    assert sum(KAT.values()) <= 23_100


def test_tests_and_scripts_keep_to_their_budget():
    assert _sum("tests") <= TESTS
    assert _sum("scripts", "examples", "benchmarks") <= BESIDE


def test_kernels_keep_to_their_budget():
    files = [path for kind in ("cpp", "inc", "h") for path in (ROOT / "kat").rglob(f"*.{kind}")]
    text = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S) for path in files)
    lines = [line.strip() for line in text.splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) <= CPP
