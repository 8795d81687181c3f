"""The size of the code: a change that adds to it takes as much out elsewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KAT = {
    "ops": 14_125, "nn": 14_770, "models": 22_660, "data": 16_690, "training": 27_255,
    "analysis": 16_775, "deploy": 3_868, "cli": 9_865, "compat": 2_590, "recipes": 2, "": 5_012,
}  # fmt: skip
"""Nodes of the syntax tree of each package of kat, and of the modules that stand beside them.

Docstrings, annotations and line breaks do not count. Nodes move from one package to another in a
commit of their own. The sum never rises.
"""
KAT_SUM, TESTS, BESIDE = 133_800, 203_000, 62_500
"""The sum over kat, and the same for tests and for scripts, examples and benchmarks together."""
CPP = 2_000
"""Lines of C++."""
_NOT_COUNTED = (ast.expr_context, ast.keyword, ast.arguments)


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The counted nodes of a syntax tree."""
    if not isinstance(tree, _NOT_COUNTED):
        yield tree
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns"):
            continue
        for child in field if isinstance(field, list) else [field]:
            match child:
                case ast.Expr(value=ast.Constant(value=str())):
                    pass  # a docstring
                case ast.AST():
                    yield from nodes(child)


def _count(source: str) -> int:
    return sum(1 for _ in nodes(ast.parse(source)))


def _sum(*folders: str, pattern: str = "**/*.py") -> int:
    files = [path for folder in folders for path in (ROOT / folder).glob(pattern)]
    return sum(_count(path.read_text()) for path in files)


def test_nodes_do_not_count_docstrings_annotations_and_line_breaks():
    """Module, assignment, name, list and its two numbers; function, argument, return and name."""
    bare = "x = [1, 2]\ndef f(a): return a"
    documented = (
        '"""Doc."""\n# comment\nx: list[int] = [\n    1,\n    2,\n]\n"""Of x."""\n'
        'def f(a: int) -> int:\n    """f."""\n    return a\n'
    )
    assert _count(bare) == _count(documented) == 10


@pytest.mark.parametrize("package", KAT)
def test_packages_keep_to_their_budget(package):
    pattern = "**/*.py" if package else "*.py"
    assert _sum(f"kat/{package}", pattern=pattern) <= KAT[package]
    assert sum(KAT.values()) <= KAT_SUM


def test_tests_and_scripts_keep_to_their_budget():
    assert _sum("tests") <= TESTS
    assert _sum("scripts", "examples", "benchmarks") <= BESIDE


def test_kernels_keep_to_their_budget():
    files = [path for kind in ("cpp", "inc", "h") for path in (ROOT / "kat").rglob(f"*.{kind}")]
    text = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S) for path in files)
    lines = [line.strip() for line in text.splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) <= CPP
