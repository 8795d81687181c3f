"""The layout: imports run one way, importing kat is quiet and cheap, the command starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kat"
MAY_IMPORT = {
    "ops": set(),
    "compat": {"nn", "ops"},
    "nn": {"ops"},
    "models": {"nn", "ops"},
    "data": set(),
    "recipes": set(),
    "training": {"models", "nn", "ops", "data"},
    "analysis": {"training", "models", "nn", "ops", "data"},
    "deploy": {"training", "models", "nn", "ops", "data"},
    "cli": {"training", "analysis", "deploy", "models", "nn", "ops", "data"},
}
LEAVES = {
    "checksum", "documents", "errors", "extras", "files", "locks", "machine", "processes",
    "settings", "tables", "text", "version",
}  # fmt: skip
"""Modules that import no layer, which every layer may use."""


def _imports(path: Path) -> set[str]:
    """The layers of kat that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kat":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kat.")}
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_run_one_way(layer):
    for path in (PACKAGE / layer).rglob("*.py"):
        upward = _imports(path) - MAY_IMPORT[layer] - LEAVES - {layer}
        assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


KNOWN_CIRCLES: set[tuple[str, ...]] = set()
"""The import circles that are left. None may be added; one that is gone must leave this list."""
KNOWN_UPWARD: set[str] = set()
"""The same for imports of a layer that does not lie below, as "kat.nn.a -> kat.models.b"."""


def test_imports_make_no_new_circle(script):
    structure = script("structure")
    graph = structure.imports(structure.read_modules(ROOT))
    assert graph["kat.models.kat"] > {"kat.models.vit"}
    assert set(structure.circles(graph)) == KNOWN_CIRCLES


def test_nothing_new_is_imported_upward(script):
    structure = script("structure")
    modules = structure.read_modules(ROOT)
    assert set(structure.upward(modules, structure.imports(modules))) == KNOWN_UPWARD


def test_every_layer_is_covered():
    layers = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert layers == set(MAY_IMPORT)


def test_the_reference_and_kernels_are_strangers():
    allowed = {
        "reference": {"arguments", "scaled", "torch_internals"},
        "scaled": set(),
        "arguments": set(),
        "torch_internals": set(),
    }
    for module, parts in allowed.items():
        assert _modules_of_ops(PACKAGE / "ops" / f"{module}.py") <= parts
    kernels = [*(PACKAGE / "ops" / "cpu").glob("*.py"), *(PACKAGE / "ops" / "triton").glob("*.py")]
    assert len(kernels) > 6
    for kernel in kernels:
        assert not _modules_of_ops(kernel) & {"reference", "scaled"}


def _modules_of_ops(path: Path) -> set[str]:
    """The modules of kat.ops that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kat.ops"):
            parts = node.module.split(".")
            found |= {parts[2]} if len(parts) > 2 else {alias.name for alias in node.names}
    return found


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )


def test_importing_kat_prints_nothing_and_leaves_heavy_modules_alone():
    heavy = (
        "triton", "matplotlib", "sklearn", "jsonargparse", "scipy", "pydantic", "rich",
        "kat.nn.fitting", "kat.models.checkpoints.hub", "kat.models.conversion", "kat.data",
    )  # fmt: skip
    code = f"""
import sys, torch, timm
before = set(sys.modules)  # torch itself may import Triton
import kat
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    result = _run(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_help_imports_no_torch():
    code = "import sys, kat_command as c; c.main(['--help']); print('torch' in sys.modules)"
    printed = _run(code).stdout
    assert "usage: kat" in printed
    assert printed.endswith("False\n")


def test_a_file_is_a_command_by_its_docstring(tmp_path):
    from kat_command import find_commands

    (tmp_path / "sing.py").write_text('"""``kat sing``: sing a song.\n\nLoudly."""\n')
    (tmp_path / "helper.py").write_text('"""What the commands share."""\n')
    (tmp_path / "dance").mkdir()
    (tmp_path / "dance" / "__init__.py").write_text('"""``kat dance``: dances."""\n')
    assert find_commands(tmp_path) == {"dance": "dances", "sing": "sing a song"}


def test_the_commands_are_those_of_the_design():
    from kat_command import find_commands

    commands = find_commands(PACKAGE / "cli")
    assert commands.keys() == {
        "ablate", "completion", "convert", "data", "eval", "export", "fit", "flops",
        "plot", "predict", "report", "stability", "train", "verify",
    }  # fmt: skip
    groups = {name: set(find_commands(PACKAGE / "cli" / name)) for name in ("data",)}
    assert groups == {"data": {"check"}}


def test_no_module_takes_the_place_of_a_name_of_its_package():
    """The import of a module sets an attribute of its package."""
    for path in PACKAGE.rglob("__init__.py"):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        modules = {found.stem for found in path.parent.glob("*.py")}
        modules |= {found.parent.name for found in path.parent.glob("*/__init__.py")}
        modules.discard("__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=source) if source != package:
                    names = {alias.asname or alias.name for alias in node.names}
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names = {name}
                case _:
                    names = set()
            assert not names & modules, f"{package}: {names & modules}"


def test_every_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    assert set(listed) == {
        ".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")
    }
