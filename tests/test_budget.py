"""The size of the code: each limit is 2 % above the size of the code when the limit was set."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KAT = {
    "ops": 14_120, "nn": 14_960, "models": 23_475, "data": 15_628, "training": 27_165,
    "analysis": 16_892, "deploy": 5_179, "cli": 10_341, "compat": 2_659, "recipes": 2, "": 5_463,
}  # fmt: skip
"""Nodes of the syntax tree of each package of kat, and of the modules that stand beside them.

Docstrings, annotations and line breaks do not count. Nodes move from one package to another in a
commit of their own.
"""
KAT_SUM, TESTS, BESIDE = 136_271, 192_000, 36_560
"""The sum over kat, and the same for tests and for scripts, examples and benchmarks together."""
CPP = 2_000
"""Lines of C++."""
_NOT_COUNTED = (ast.expr_context, ast.keyword, ast.arguments)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


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


def size(tree: ast.AST) -> int:
    return sum(1 for _ in nodes(tree))


def is_knot(node: ast.AST) -> bool:
    """Return True for a comprehension that cannot be read aloud.

    It has several ``for`` or ``if``, an ``if`` of more than 12 nodes, or a comprehension or a
    conditional expression inside.
    """
    if not isinstance(node, _COMPREHENSIONS):
        return False
    inner = [part for part in ast.walk(node) if part is not node]
    if any(isinstance(part, (*_COMPREHENSIONS, ast.IfExp)) for part in inner):
        return True
    conditions = node.generators[0].ifs
    return len(node.generators) > 1 or len(conditions) > 1 or sum(map(size, conditions)) > 12


def long_statements(tree: ast.AST) -> set[ast.stmt]:
    """Return the statements in functions that hold no other and have more than 60 nodes."""
    statements = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            statements.update(part for part in ast.walk(function) if isinstance(part, ast.stmt))
    return {one for one in statements if not _holds_others(one) and size(one) > 60}


def _holds_others(statement: ast.stmt) -> bool:
    return sum(isinstance(part, ast.stmt) for part in ast.walk(statement)) > 1


def trees(*folders: str, pattern: str = "**/*.py") -> list[ast.AST]:
    """Return the syntax trees of the files in folders."""
    files = [path for folder in folders for path in (ROOT / folder).glob(pattern)]
    return [ast.parse(path.read_text()) for path in files]


def _sum(*folders: str, pattern: str = "**/*.py") -> int:
    return sum(map(size, trees(*folders, pattern=pattern)))


@pytest.mark.parametrize("package", KAT)
def test_packages_keep_to_their_budget(package):
    pattern = "**/*.py" if package else "*.py"
    assert _sum(f"kat/{package}", pattern=pattern) <= KAT[package]
    assert sum(KAT.values()) <= KAT_SUM


def test_the_package_has_no_knot_and_no_long_statement():
    for path in (ROOT / "kat").rglob("*.py"):
        tree = ast.parse(path.read_text())
        knots = [node.lineno for node in ast.walk(tree) if is_knot(node)]
        assert (knots, long_statements(tree)) == ([], set()), path


def test_tests_and_scripts_keep_to_their_budget():
    assert _sum("tests") <= TESTS
    assert _sum("scripts", "examples", "benchmarks") <= BESIDE


def test_kernels_keep_to_their_budget():
    files = [path for kind in ("cpp", "inc", "h") for path in (ROOT / "kat").rglob(f"*.{kind}")]
    text = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S) for path in files)
    lines = [line.strip() for line in text.splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) <= CPP
