"""Check how a project's imports and calls of rational packages are served, and replace imports.

``python -m kat.compat --check PATH`` reads the ``.py`` files of a tree and runs none of them.
``python -m kat.compat --replace PATH`` prints the changed imports as a diff and writes them.
"""

from __future__ import annotations

import ast
import codecs
import inspect
import shutil
import sys
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from kat.compat.serving import KERNELS, absent, module_of, published
from kat.errors import InputError
from kat.files import replacing
from kat.text import counted, say, say_all


@dataclass(frozen=True)
class Found:
    """An import or a call of a rational package.

    Args:
        path: the file.
        node: the import or the call.
        text: as it is written there.
        verdict: how it is served, or why not.
        replacement: the import that ``--replace`` writes in its place, if there is one.
    """

    path: Path
    node: Any
    text: str
    verdict: str
    replacement: str = ""

    @property
    def refused(self) -> bool:
        """True if it is not served."""
        return self.verdict.startswith("not served")

    def __str__(self) -> str:
        return f"{self.path}:{self.node.lineno}: {self.text}: {self.verdict}"


def check(root: Path) -> list[Found]:
    """Return the imports and calls in all ``.py`` files of a tree.

    The files of a copy of ``kat_rational`` or ``rational_kat`` are not listed.

    Raises:
        InputError: the path does not exist.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist")
    files = [root] if root.is_file() else _python_files(root)
    found: list[Found] = []
    for path in files:
        if not {path.stem, *path.relative_to(root).parent.parts} & set(KERNELS):
            found += _check_file(path, files)
    return found


def _python_files(root: Path) -> list[Path]:
    """Return the files of a tree but those in hidden folders."""
    files = sorted(root.rglob("*.py"))
    visible = [path for path in files if "/." not in f"/{path.relative_to(root).as_posix()}"]
    return [path for path in visible if path.is_file()]


def _check_file(path: Path, files: list[Path]) -> list[Found]:
    try:
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8-sig"))))
    except (SyntaxError, ValueError) as error:
        return [Found(path, ast.Pass(lineno=1), path.name, f"not read: {error}")]
    names: dict[str, Any] = {}
    found: list[Found] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            modules = {alias.name: [alias] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {"." * node.level + (node.module or ""): node.names}
        else:
            continue
        for module, aliases in modules.items():
            if package := published(module):
                verdict, new = _check_import(node, module, package, aliases, files, names)
                found.append(Found(path, node, ast.unparse(node), verdict, new))
    for node in nodes:
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called.split(".")[0] in names:
            found.append(Found(path, node, f"{called}(...)", _check_call(node, called, names)))
    return sorted(found, key=lambda each: each.node.lineno)


def _check_import(
    node: ast.Import | ast.ImportFrom,
    module: str,
    package: str,
    aliases: list[ast.alias],
    files: list[Path],
    names: dict[str, Any],
) -> tuple[str, str]:
    """Return the verdict on an import and its replacement. Adds what it imports to ``names``."""
    copies = [path for path in files if package in (path.stem, path.parent.name)]
    own = copies and package not in KERNELS
    source = module_of(package)
    if isinstance(node, ast.ImportFrom):
        missing = [alias.name for alias in aliases if alias.name not in (*source.__all__, "*")]
        if missing and not own:
            return f"not served: {absent(module, missing[0], source)}", ""
        new = {alias.asname or alias.name: getattr(source, alias.name, None) for alias in aliases}
        statement = ast.ImportFrom(source.__name__, aliases, 0)
        replacement = "" if missing else ast.unparse(statement)
    else:
        name = aliases[0].asname or aliases[0].name
        new = {name: source}
        alone = len(node.names) == 1 and "." not in name
        replacement = f"import {source.__name__} as {name}" if alone and not own else ""
    if own:
        return f"the project's own, {copies[0]}", replacement if package == "katransformer" else ""
    names.update(new)
    if copies:
        return f"served after `import kat.compat.force`, since there is {copies[0]}", replacement
    if module.split(".")[0] not in (package, "rational_kat_cu"):
        if not replacement:
            return f"not served: write from {source.__name__} import ...", ""
        return f"served after --replace by `{replacement}`", replacement
    return "served after `import kat.compat`", replacement


def _check_call(node: Any, called: str, names: dict[str, Any]) -> str:
    first, *rest = called.split(".")
    target = names[first]
    for each in rest:
        target = getattr(target, each, None)
    if not callable(target):
        return f"not served: there is no {called} in kat.compat"
    given = [each for each in node.args if not isinstance(each, ast.Starred)]
    named: dict[str, Any] = {each.arg: each.value for each in node.keywords if each.arg}
    try:
        inspect.signature(target).bind_partial(*given, **named)
    except TypeError as error:
        return f"not served: {error}"
    version = getattr(named.get("version"), "value", "A")
    return "served" if version in ("A", "B") else f"not served: version {version!r}, but A and B"


def replace(root: Path, found: list[Found], force: bool) -> None:
    """Print all replacements as a diff, then write them, each file completely or not at all.

    Raises:
        InputError: the tree is in no git repository, unless ``force``.
    """
    changes: dict[Path, bytes] = {}
    for each in sorted(found, key=lambda each: each.node.lineno, reverse=True):
        if each.replacement:
            content = changes.get(each.path) or each.path.read_bytes()
            changes[each.path] = _replaced(content, each.node, each.replacement)
    for path, content in changes.items():
        before = path.read_text("utf-8", "replace").splitlines()
        after = content.decode("utf-8", "replace").splitlines()
        say_all(unified_diff(before, after, str(path), str(path), lineterm=""))
    folders = [root.resolve(), *root.resolve().parents]
    if not force and not any((folder / ".git").exists() for folder in folders):
        raise InputError(
            f"nothing is written, since {root} is not in a git repository; --force writes anyway"
        )
    for path, content in changes.items():
        with replacing(path.resolve()) as partial:
            partial.write_bytes(content)
            shutil.copymode(path, partial)
    say(f"{counted(len(changes), 'file')} changed")


def _replaced(content: bytes, node: Any, replacement: str) -> bytes:
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    lines = content.removeprefix(mark).splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [before + replacement.encode() + after]
    return mark + b"".join(lines)


def main(root: Path, write: bool, force: bool) -> int:
    """Print what is found, and with ``write`` replace it; 1 if something is not served."""
    try:
        found = check(root)
        say_all(found)
        refused = sum(each.refused for each in found)
        say(f"{counted(len(found), 'import or call', 'imports and calls')}, {refused} not served")
        if write:
            replace(root, found, force)
    except InputError as error:
        sys.exit(f"python -m kat.compat: {error}")
    return int(refused > 0)
