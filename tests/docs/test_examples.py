"""The example of every public name runs, and prints what its docstring says; so do first pages."""

from __future__ import annotations

import doctest
import re
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import kat
import kat_command
from tests.docs.public import ROOT, public_objects
from tests.processes import free_port

OBJECTS = public_objects()
DISTINCT = {found.canonical_path: found for found in OBJECTS.values() if not found.is_attribute}
EXPORTS = ("kat.deploy.export.", "kat.deploy.runtime.", "kat.ops.api.decompositions")
FLAGS = doctest.ELLIPSIS
NAMES = (
    "index", "getting-started", "own-model", "by-name", "language-model", "first-principles",
    "kanify", "fine-tuning", "higher-order", "checkpoints", "backends",
    "coming-from-the-authors-code", "reference/fitting", "reference/weights",
)  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in NAMES))
"""Pages whose code in Python runs, one block after the other."""
BLOCKS = re.compile(r"```python\n((?s:.*?))```(?:\n\nIt prints.*\n\n```text\n((?s:.*?))```)?")


def _case(path):
    slow = pytest.mark.slow if path.startswith(EXPORTS) else ()
    return pytest.param(path, marks=slow)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_name_has_an_example(name):
    """Constants and types need none."""
    docstring = OBJECTS[name].docstring
    assert docstring is not None, f"{name} has no docstring"
    found = OBJECTS[name].is_attribute or "\nExamples:\n    >>> " in docstring.value
    assert found, f"the docstring of {name} has no Examples:"


@pytest.mark.parametrize("path", [_case(path) for path in DISTINCT])
def test_an_example_prints_what_it_says(path, reader_folder, monkeypatch, tmp_path):
    docstring = DISTINCT[path].docstring
    (tmp_path / "runs").mkdir()
    for name in ("runs/digits", "photos", "items"):
        (tmp_path / name).symlink_to(reader_folder / name)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    torch.manual_seed(0)
    parsed = doctest.DocTestParser().get_doctest(docstring.value, {}, path, None, docstring.lineno)
    printed: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(parsed, out=printed.append)
    assert not result.failed, "".join(printed)
    assert result.attempted


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_of_a_page_runs(page, reader_folder, monkeypatch, tmp_path):
    for path in (reader_folder / "photos", ROOT / "examples"):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)  # offline
    run_code_of(page)


@pytest.mark.slow
def test_the_python_code_of_pages_about_a_run_runs(reader_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for package in ("onnxruntime", "onnxscript", "torchao", "torchvision", "transformers"):
        pytest.importorskip(package)
    (tmp_path / "runs").symlink_to(reader_folder / "runs")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    options = {
        "mine.onnx": [],
        "classifier.onnx": ["--with-preprocessing"],
        "mine": [],
        "mine-transformers": ["--format", "transformers"],
    }
    for name, given in options.items():
        kat_command.main(["export", "runs/digits", "--out", name, *given])
    pixels = np.random.default_rng(0).integers(0, 2**16, (30, 20), dtype=np.uint16)
    Image.fromarray(pixels).save("photo.jpg", "PNG")
    (wanted,) = kat.load("runs/digits").predict(["photo.jpg"], top=10)
    ranks = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    try:
        found = run_code_of("docs/deployment.md")
        run_code_of("docs/plots.md")
        run_code_of("docs/fixed-functions.md")
    finally:
        torch.distributed.destroy_process_group()
    assert [entry["class"] for entry in wanted.entries] == [*found["names"]]
    probabilities = [entry["probability"] for entry in wanted.entries]
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)


def run_code_of(page: str, **names: Any) -> dict[str, Any]:
    """Run the blocks of a page one after the other; return the names that they define.

    A block of text below a line "It prints ..." is what the code above it prints.
    """
    torch.manual_seed(0)
    blocks = BLOCKS.findall((ROOT / page).read_text())
    assert blocks
    names["__name__"] = page
    for block, said in blocks:
        code = block.replace("epochs=40", "epochs=1")  # a run of a minute
        code = code.replace('="runs/photos")', '="runs/photos", epochs=1)')
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, page, "exec"), names)
        assert said in ("", printed.getvalue())
    return names
