"""Figures about the structure of the package: sizes, imports, private names, settings.

    python scripts/structure.py                  # the checkout in this folder
    python scripts/structure.py HEAD~9 . --list  # a git ref beside it, and what is found in both
    python scripts/structure.py --markdown

Everything is read from the source; nothing of kat is imported. Imports count at the top of a module
and inside functions, but not under TYPE_CHECKING; that a module also loads the packages it lies in
does not count. Lines include blank ones and comments.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import private_names
from private_names import nodes_of

ROOT = Path(__file__).parent.parent
LEAVES = "leaf modules"
ORDER = (
    {LEAVES}, {"ops"}, {"nn"}, {"models", "data", "compat"}, {"training"}, {"analysis", "deploy"},
    {"api"}, {"kat"}, {"cli"},
)  # fmt: skip
"""From bottom to top; layers in one set may not import each other. "kat" is kat/__init__.py,
"api" kat/api.py."""
PACKAGES = ("ops", "nn", "models", "data", "training", "analysis", "deploy", "cli", LEAVES)
OTHER_SOURCES = {".cpp", ".h", ".inc", ".cu", ".js", ".css"}
DOCS = {".md", ".py", ".ipynb"}


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    text: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed text."""
        return ast.parse(self.text)

    @property
    def layer(self) -> str:
        """Its package, or what stands in the place of one for modules beside the packages."""
        parts = self.name.split(".")
        if len(parts) > 2 or (self.is_package and len(parts) == 2):
            return parts[1]
        apart = {"kat": "kat", "kat.api": "api", "kat.compat": "compat", "kat_command": "cli"}
        return apart.get(self.name, LEAVES)


def read_modules(folder: Path) -> dict[str, Module]:
    """The modules of kat in a checkout, by name, and kat_command with them."""
    modules = {}
    for path in sorted([*(folder / "kat").rglob("*.py"), *folder.glob("kat_command.py")]):
        inside = path.relative_to(folder)
        is_package = path.name == "__init__.py"
        name = ".".join(inside.parent.parts if is_package else inside.with_suffix("").parts)
        modules[name] = Module(name, inside, path.read_text(), is_package)
    return modules


def imports(modules: dict[str, Module]) -> dict[str, set[str]]:
    """The modules of kat that each module imports."""
    found = {name: set(_imports(module, modules)) for name, module in modules.items()}
    return {name: targets & set(modules) - {name} for name, targets in found.items()}


def _imports(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for node in _at_runtime(module.tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                source = _source(node, module)
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield inner if inner in modules else source
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def _at_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    yield node
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = list(node.orelse) if not isinstance(node.test, ast.UnaryOp) else children
    for child in children:
        yield from _at_runtime(child)


def _source(node: ast.ImportFrom, module: Module) -> str:
    """The full name of what ``from ... import`` imports from."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of modules that all import each other, be it by way of others of the group."""
    reached = {name: _reached(name, graph) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return sorted(groups)


def folder_circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of folders and files side by side in a package that import each other."""
    found = []
    for package in {name.rpartition(".")[0] for name in graph} - {"", "kat"}:
        inside = {name: _child(name, package) for name in graph if name.startswith(f"{package}.")}
        beside: dict[str, set[str]] = {child: set() for child in inside.values()}
        for name, child in inside.items():
            beside[child] |= {inside.get(target, child) for target in graph[name]} - {child}
        found += circles(beside)
    return sorted(found)


def _child(name: str, package: str) -> str:
    """The folder or file of a package in which a module is."""
    return ".".join(name.split(".")[: package.count(".") + 2])


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def upward(modules: dict[str, Module], graph: dict[str, set[str]]) -> list[str]:
    """The imports of a layer that does not lie below, as ``a -> b``."""
    rank = {layer: place for place, layers in enumerate(ORDER) for layer in layers}
    found = []
    for name, targets in graph.items():
        own = modules[name].layer
        for target in targets:
            other = modules[target].layer
            if own != other and rank.get(own, 0) <= rank.get(other, len(ORDER)):
                found.append(f"{name} -> {target}")
    return sorted(found)


def public_names(modules: dict[str, Module]) -> list[str]:
    """The names in ``__all__`` of packages."""
    return [
        f"{module.name}.{name}"
        for module in modules.values()
        if module.is_package
        for node in nodes_of(module.tree, ast.Assign)
        if ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    ]


def settings(modules: dict[str, Module]) -> list[str]:
    """The dotted names of all settings of a training run: the leaves of TrainConfig."""
    classes = {
        node.name: node
        for module in modules.values()
        for node in nodes_of(module.tree, ast.ClassDef)
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    }

    def leaves(name: str, above: str) -> Iterator[str]:
        for base in classes[name].bases:
            if (base_name := ast.unparse(base)) in classes:
                yield from leaves(base_name, above)
        for field in classes[name].body:
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                inner = [n.id for n in nodes_of(field.annotation, ast.Name) if n.id in classes]
                dotted = above + ast.unparse(field.target)
                yield from leaves(inner[0], f"{dotted}.") if inner else [dotted]

    return list(leaves("TrainConfig", "")) if "TrainConfig" in classes else []


@dataclass(frozen=True)
class Report:
    """The figures of one checkout, and what was found in it."""

    packages: dict[str, tuple[int, int, int]]
    totals: dict[str, int]
    found: dict[str, list[str]]


def measure(folder: Path) -> Report:
    """Reads a checkout."""
    modules = read_modules(folder)
    graph = imports(modules)
    groups = circles(graph)
    trees = {module.path: module.tree for module in modules.values()}
    found = {
        "import circles": [", ".join(group) for group in groups],
        "circles of folders": [", ".join(group) for group in folder_circles(graph)],
        "upward imports": upward(modules, graph),
        "private names of other libraries": private_names.find(trees),
        "public names": public_names(modules),
        "settings": settings(modules),
    }
    packages: dict[str, list[Module]] = {name: [] for name in PACKAGES}
    for module in modules.values():
        above = module.layer in ("kat", "api", "compat")
        packages.setdefault(LEAVES if above else module.layer, []).append(module)
    packages["total"] = list(modules.values())
    totals = {
        "modules in circles": sum(map(len, groups)),
        **{name: len(rows) for name, rows in found.items()},
        "lines of C++, JavaScript and CSS": _lines(folder / "kat", OTHER_SOURCES),
        "lines of tests": _lines(folder / "tests", {".py"}),
        "lines of docs": _lines(folder / "docs", DOCS),
    }
    return Report({name: _size(group) for name, group in packages.items()}, totals, found)


def _size(modules: list[Module]) -> tuple[int, int, int]:
    """Lines, files, and the most files in one folder."""
    folders = Counter(module.path.parent for module in modules)
    lines = sum(module.text.count("\n") for module in modules)
    return lines, len(modules), max(folders.values(), default=0)


def _lines(folder: Path, suffixes: set[str]) -> int:
    paths = (path for path in folder.rglob("*") if path.suffix in suffixes)
    return sum(path.read_text().count("\n") for path in paths)


def read(source: str) -> Report:
    """Measures a folder or a git ref."""
    if (Path(source) / "kat").is_dir():
        return measure(Path(source))
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", source]
    packed = subprocess.run(command, stdout=subprocess.PIPE)
    if packed.returncode:  # git has said why
        raise SystemExit(packed.returncode)
    with TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
        return measure(Path(folder))


def table(rows: list[list[str]], markdown: bool) -> str:
    """Rows, the first of which is the head, with numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if markdown:
        rows = [rows[0], ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])], *rows[1:]]
    lines = []
    for label, *figures in rows:
        right = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        cells = [label.ljust(widths[0]), *right]
        lines.append(f"| {' | '.join(cells)} |" if markdown else "   ".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", default=["."], help="folders and git refs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--list", action="store_true", help="print what is found, too")
    options = parser.parse_args()
    reports = [read(source) for source in options.sources]

    packages = {name: None for report in reports for name in report.packages if name != "total"}
    sizes = [["package", "lines", "files", "side by side"]]
    for name in (*packages, "total"):
        figures = zip(*(report.packages.get(name, (0, 0, 0)) for report in reports), strict=True)
        sizes.append([name, *(_beside(values) for values in figures)])
    totals = [["in total", "figure"]]
    totals += [[name, _beside(r.totals[name] for r in reports)] for name in reports[0].totals]
    print(_beside(options.sources), table(sizes, options.markdown), sep="\n\n", end="\n\n")
    print(table(totals, options.markdown))
    for source, report in zip(options.sources, reports, strict=True):
        for kind, found in report.found.items() if options.list else ():
            print(f"\n{kind}, {source}:", *found or ["none"], sep="\n  ")


def _beside(values: Iterable[object]) -> str:
    return " -> ".join(map(str, values))


if __name__ == "__main__":
    main()
