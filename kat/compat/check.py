"""Check how a project's imports and calls of rational packages are served, and replace imports.

The files of the project are parsed, and none of them is run.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import shutil
import tokenize
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from kat.compat.serving import KERNELS, absent, module_of, published
from kat.errors import InputError, first_line
from kat.files import leads_outside, read_bytes, replacing
from kat.text import counted, say, say_all

_FALLBACK = re.compile(r"except(:|.*\b(ImportError|Exception)\b)(?!(?s:.*)\braise\b)")
"""A handler that continues without what an import lacks."""


@dataclass(frozen=True)
class Found:
    """An import or a call of a rational package, or a file that is not read.

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
    def is_problem(self) -> bool:
        """True if it is not served, or the file is not read."""
        return self.verdict.startswith("not ")

    def __str__(self) -> str:
        return f"{self.path}:{self.node.lineno}: {self.text}: {self.verdict}"


def check(root: Path) -> list[Found]:
    """Return the imports and calls in all ``.py`` files of a project, and the files not read.

    Hidden files, the files of an environment, and the files of a copy of ``kat_rational`` or
    ``rational_kat`` are left out.

    Raises:
        InputError: the project is not a folder, or a module of it is found in the place of this
            library. The message names the module and the lines that import it.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder")
    files = [path for path in sorted(root.rglob("*.py")) if _is_own(path.relative_to(root))]
    found: list[Found] = []
    imports: list[tuple[str, str]] = []
    for path in files:
        if {path.stem, *path.relative_to(root).parent.parts} & set(KERNELS):
            continue
        try:
            if leads_outside(path, root):
                raise InputError(f"it is a link that leads out of {root}")
            found += _check_file(path, files, imports)
        except (OSError, SyntaxError, ValueError, MemoryError, RecursionError) as error:
            verdict = f"not read: {first_line(error)}"
            found.append(Found(path, ast.Pass(lineno=1), path.name, verdict))
    lines = [line for name, line in imports if re.match(r"\.?kat\b(?!\.compat)", name)]
    for path in files:
        place = re.fullmatch(r"(.*/)?kat(/__init__)?\.py", path.relative_to(root).as_posix())
        if place is None:
            continue
        in_package = place[1] and (root / place[1] / "__init__.py").exists()
        if not in_package and (lines or not place[1]):
            raise InputError(
                f"`import kat` finds {path} in the place of this library: rename it, for example to"
                f" own_kat, and change its name in {', '.join(lines) or 'no other line'}"
            )
    return found


def _is_own(path: Path) -> bool:
    """Return False for a hidden file and for one in an environment."""
    return not re.search(r"(^|/)(\.|site-packages/)", path.as_posix())


def _check_file(path: Path, files: list[Path], imports: list[tuple[str, str]]) -> list[Found]:
    """Return what is found in a file. Adds the modules that it imports to ``imports``."""
    nodes: list[Any] = list(ast.walk(ast.parse(read_bytes(path), path.name)))
    names: dict[str, Any] = {}
    optional: set[ast.AST] = set()
    found: list[Found] = []
    for node in nodes:  # a statement comes before those that it holds
        modules: dict[str, list[ast.alias]] = {}
        if isinstance(node, ast.Import):
            modules = {alias.name: [alias] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {"." * node.level + (node.module or ""): node.names}
        elif any(map(_FALLBACK.match, map(ast.unparse, getattr(node, "handlers", [])))):
            optional.update(ast.walk(ast.Module(node.body, [])))
        for module, aliases in modules.items():
            imports.append((module, f"{path}:{node.lineno}"))
            if package := published(module):
                verdict, new = _check_import(node, module, package, aliases, files, names)
                if node in optional:
                    verdict = verdict.replace("not served", "left to the `except` of its `try`")
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
    for each in reversed(found):  # the last of a file first: the others keep their places
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
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    utf8 = content.decode(encoding).encode()  # whose bytes the columns of a node count
    lines = utf8.splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [before + replacement.encode() + after]
    return b"".join(lines).decode().encode(encoding)
