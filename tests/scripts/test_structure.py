"""The figures about the structure, over small packages made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
        "from kat.nn import a",
        "import kat.nn.a",
        "from .a import x",
        "from . import a",
        "def f():\n    from kat.nn import a",
        "import importlib\nimportlib.import_module('kat.nn.a')",
        "if not TYPE_CHECKING:\n    import kat.nn.a",
    ],
)
def test_circle(make, structure, back):
    modules = make({"kat/nn/a.py": "import kat.nn.b", "kat/nn/b.py": back})
    assert structure.circles(structure.imports(modules)) == [("kat.nn.a", "kat.nn.b")]


def test_circle_through_a_package(make, structure):
    modules = make({"kat/nn/__init__.py": "from kat.nn.a import x", "kat/nn/a.py": "import kat.nn"})
    assert structure.circles(structure.imports(modules)) == [("kat.nn", "kat.nn.a")]


@pytest.mark.parametrize(
    "back", ["from kat.ops import c", "if TYPE_CHECKING:\n    import kat.nn.a"]
)
def test_no_circle(make, structure, back):
    files = {"kat/nn/a.py": "import kat.nn.b", "kat/nn/b.py": back, "kat/ops/c.py": ""}
    assert structure.circles(structure.imports(make(files))) == []


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
        ("kat.ops.a", "kat.nn"),
        ("kat.data.a", "kat.models"),
        ("kat.deploy.a", "kat.analysis"),
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


IMPORTS = "import torch\nfrom torch import nn\n"
OURS = """
from torch import nn

def _helper(): pass

class Layer(nn.Module):
    _limit = 3
    def __init__(self):
        self._cache = None
        self.register_buffer("_table", None)
    def reset(self):
        self._seen = 0
        return self._used() + self._cache + self._limit + self._table
    def read(self, other):
        return self._seen + other._cache
    def _used(self):
        return self.__dict__, pair._replace(x="_ap"), getattr(self, "_seen"), {"_limit": 1}
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("torch._C._jit.run()", ["3 torch._C._jit"]),
        ("torch._helper", ["3 torch._helper"]),
        ("import torch._dynamo", ["3 torch._dynamo"]),
        ("from torch._C import x", ["3 torch._C.x"]),
        ("from torch.nn import _Conv", ["3 torch.nn._Conv"]),
        ("x._hidden.y", ["3 x._hidden"]),
        ("f(x._a)._b", ["3 f(x._a)._b", "3 x._a"]),
        ("getattr(x, '_hidden')", ["3 '_hidden'"]),
        ("x._hidden\nNAMES = ['_hidden']", ["3 x._hidden", "4 '_hidden'"]),
        ("def state(): return {'_hidden': 1}", ["3 '_hidden'"]),
        ("TABLE = {'_hidden': 1}", []),
        (
            "class Log(nn.Module):\n  def end(self):\n    self._run.end()\n    self._run = None",
            ["5 self._run", "6 self._run"],
        ),
        ("class Log(nn.Module):\n  def start(self): self._world = 2", ["4 self._world"]),
        (
            "class Rate(nn.Module):\n  def _get(self): return super()._get()",
            ["4 def _get", "4 super()._get"],
        ),
    ],
)
def test_private_names(make, structure, text, found):
    modules = make({"kat/nn/ours.py": OURS, "kat/nn/a.py": IMPORTS + text})
    trees = {module.path: module.tree for module in modules.values()}
    expected = [f"kat/nn/a.py:{row}" for row in found]
    assert structure.private_names.find(trees) == expected


def test_settings_are_the_leaves(make, structure):
    text = """
@dataclass
class Base:
    lr: float = 1.0

@dataclass(frozen=True)
class Inner(Base):
    kind: ClassVar[str] = "a"
    betas: tuple[float, float] = (0.9, 0.999)

@dataclass
class TrainConfig:
    seed: int = 0
    optim: Inner = field(default_factory=Inner)
    other: Annotated[Inner | None, "x"] = None
"""
    assert structure.settings(make({"kat/training/config.py": text})) == [
        "seed", "optim.lr", "optim.betas", "other.lr", "other.betas",
    ]  # fmt: skip


def test_table_of_two_checkouts(make, tmp_path):
    make({"kat/ops/a.py": "x = 1\ny = 2\n", "tests/test_a.py": "\n\n\n", "docs/a.md": "a\n"})
    (tmp_path / "kat_command.py").write_text("x = 1\n")
    command = [sys.executable, ROOT / "scripts" / "structure.py", tmp_path, tmp_path, "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    assert ["ops", "2 -> 2", "2 -> 2", "2 -> 2"] in rows
    assert ["cli", "1 -> 1", "2 -> 2", "1 -> 1"] in rows
    assert ["total", "3 -> 3", "11 -> 11", "2 -> 2"] in rows
    assert ["lines of tests", "3 -> 3"] in rows
    assert ["lines of docs", "1 -> 1"] in rows
