"""Where the source uses private names of other libraries; read from its syntax trees.

A name is private if it starts with one underscore. It is ours if the source defines it: as a
function, a class, a variable, or an attribute of self that is read somewhere and that some method
sets before reading it. Otherwise a base class of another library has made it. A private method of a
derived class that the source never calls is an override: only the base class can call it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard, TypeVar

Node = TypeVar("Node", bound=ast.AST)
PRIVATE = re.compile(r"_(?!_)\w+")
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Documented names with an underscore: of named tuples, and os._exit."""


def find(trees: Mapping[Path, ast.Module]) -> list[str]:
    """The uses of private names of other libraries, as ``file:line name``."""
    whole = ast.Module([statement for tree in trees.values() for statement in tree.body], [])
    read = {
        node.attr
        for node in nodes_of(whole, ast.Attribute)
        if isinstance(node.ctx, ast.Load) and ast.unparse(node.value) != "super()"
    }
    overrides = set(_private_methods(whole)) - read
    own = set(_defined(whole)) - overrides | set(_set_first(whole)) & read
    found = {
        (path, line, name)
        for path, tree in trees.items()
        for line, name in [*_imported(tree), *_used(tree, own, overrides)]
    }
    names = {name.split(".")[-1] for _, _, name in found}
    found |= {  # in strings too, as setattr and state dicts take them
        (path, node.lineno, repr(node.value))
        for path, tree in trees.items()
        for node in nodes_of(tree, ast.Constant)
        if is_private(node.value) and node.value in names
    }
    return [f"{path}:{line} {name}" for path, line, name in sorted(found)]


def nodes_of(tree: ast.AST, kind: type[Node]) -> Iterator[Node]:
    """The nodes of a kind in a tree."""
    return (node for node in ast.walk(tree) if isinstance(node, kind))


def is_private(name: object) -> TypeGuard[str]:
    """Return True if this is a private name; a dunder name is not."""
    return isinstance(name, str) and bool(PRIVATE.fullmatch(name)) and name not in DOCUMENTED


def _private_methods(tree: ast.Module) -> Iterator[str]:
    """The private methods of classes with a base."""
    for derived in nodes_of(tree, ast.ClassDef):
        if derived.bases:
            methods = (node.name for node in derived.body if isinstance(node, ast.FunctionDef))
            yield from filter(is_private, methods)


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Call(
                func=ast.Attribute(attr="register_buffer" | "register_parameter"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def _set_first(tree: ast.Module) -> Iterator[str]:
    """The attributes of self that some method sets before it reads them."""
    for method in nodes_of(tree, ast.FunctionDef):
        accesses = [node for node in nodes_of(method, ast.Attribute) if _of_self(node)]
        first: dict[str, ast.Attribute] = {}
        for node in sorted(accesses, key=lambda node: (node.lineno, _is_set(node))):
            first.setdefault(node.attr, node)
        yield from (name for name, node in first.items() if _is_set(node))


def _of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _is_set(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of the imports from other libraries that have a private part."""
    for node, names in _foreign_imports(tree):
        yield from ((node.lineno, name) for name in names if any(map(is_private, name.split("."))))


def _foreign_imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, list[str]]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield node, [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                if module.split(".")[0] != "kat":
                    yield node, [f"{module}.{alias.name}" for alias in names]


def _used(tree: ast.Module, own: set[str], overrides: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of the attributes, overrides and strings that name what is not ours."""
    libraries = {
        alias.asname or alias.name.split(".")[0]
        for node, _ in _foreign_imports(tree)
        for alias in node.names
    }
    seen: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name) and node not in seen:
                root: ast.expr = node
                while isinstance(root, ast.Attribute):  # torch._C._functorch is one use
                    seen.add(root)
                    root = root.value
                if name not in own or (isinstance(root, ast.Name) and root.id in libraries):
                    yield node.lineno, ast.unparse(node)
            case ast.FunctionDef(name=name):
                if name in overrides:
                    yield node.lineno, f"def {name}"
                for table in nodes_of(node, ast.Dict):  # a state that a function puts together
                    yield from _strings([key for key in table.keys if key], own)
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr")):
                yield from _strings(node.args[1:2], own)


def _strings(nodes: list[ast.expr], own: set[str]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.Constant) and is_private(node.value) and node.value not in own:
            yield node.lineno, repr(node.value)
