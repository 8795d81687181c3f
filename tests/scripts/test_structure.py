"""The figures about the structure, over small packages made for it."""

from __future__ import annotations

import pytest


@pytest.fixture
def structure(script):
    return script("structure")


@pytest.fixture
def make(tmp_path, structure):
    """Writes a package whose files are given by name, and reads it."""

    def write(files):
        for package in ("", *(f"{layer}/" for layer in structure.PACKAGES[:-1])):
            files = {f"kat/{package}__init__.py": "", **files}
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return structure.read_modules(tmp_path)

    return write


@pytest.mark.parametrize(
    "back",
    [
        "from kat.nn.a import x",
        "from . import a",
        "def f():\n    from kat.nn import a",
        "import importlib\nimportlib.import_module('kat.nn.a')",
        "if not TYPE_CHECKING:\n    import kat.nn.a",
    ],
)
def test_circle(make, structure, back):
    modules = make({"kat/nn/a.py": "import kat.nn.b", "kat/nn/b.py": back})
    assert structure.circles(structure.imports(modules)) == [("kat.nn.a", "kat.nn.b")]


def test_circle_through_a_package_and_none(make, structure):
    files = {
        "kat/nn/__init__.py": "from kat.nn.a import x",
        "kat/nn/a.py": "import kat.nn",
        "kat/ops/a.py": "import kat.ops.b",
        "kat/ops/b.py": "if TYPE_CHECKING:\n    import kat.ops.a",
    }
    assert structure.circles(structure.imports(make(files))) == [("kat.nn", "kat.nn.a")]


def test_circle_of_folders(make, structure):
    files = {
        "kat/nn/a/x.py": "import kat.nn.b.y",
        "kat/nn/b/y.py": "",
        "kat/nn/b/z.py": "import kat.nn.a.w",
        "kat/nn/a/w.py": "",
        "kat/nn/c.py": "import kat.nn.a.w",
    }
    graph = structure.imports(make(files))
    assert structure.circles(graph) == []
    assert structure.folder_circles(graph) == [("kat.nn.a", "kat.nn.b")]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("kat.data.a", "kat.models"),
        ("kat.training.tasks.a", "kat.cli"),
        ("kat.errors", "kat.ops"),
        ("kat.models.a", "kat"),
    ],
)
def test_upward(make, structure, importer, imported):
    files = {
        f"{importer.replace('.', '/')}.py": f"import {imported}",
        "kat/version.py": "",
        "kat/cli/right.py": "import kat, kat.training, kat.version",
        "kat/analysis/right.py": "import kat.training, kat.ops",
    }
    modules = make(files)
    assert structure.upward(modules, structure.imports(modules)) == [f"{importer} -> {imported}"]
