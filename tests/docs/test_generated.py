"""The pages that are made from the code: the command line, and the settings."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from kat.settings import flat
from kat.training import TrainConfig
from tests.docs.public import ROOT, imported

REFERENCE = ROOT / "docs" / "reference"
pytest.importorskip("griffe", reason="the docs extra is not installed")


@pytest.fixture(scope="module")
def reference():
    return imported("reference", "scripts/site")


def test_the_page_of_the_command_line_has_the_help_of_every_command(reference):
    page = reference.on_page_markdown((REFERENCE / "command-line.md").read_text())
    sources = "".join(path.read_text() for path in (ROOT / "kat" / "cli" / "commands").glob("*.py"))
    for name in re.findall(r'"""``(kat [\w ]+)``: ', sources):
        assert re.search(rf"^##+ {name}\n\n```text\nusage: {name} ", page, re.M), name
    assert "--image-size N" in page.partition("## kat export")[0].partition("## kat eval")[2]


def test_the_page_of_the_settings_has_a_row_for_each(reference):
    page = reference.on_page_markdown((REFERENCE / "configuration.md").read_text())
    rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| `")]
    assert {len(row) for row in rows} == {6}
    names = {row[1].strip(" `") for row in rows}
    assert names == set(flat(asdict(TrainConfig())))
    cells = {row[1].strip(" `"): [cell.strip() for cell in row[2:5]] for row in rows}
    assert cells["optim.lr"] == [
        "number > 0 or `auto`", "`0.001`",
        "peak learning rate; auto: chosen by the number of images.",
    ]  # fmt: skip
    assert cells["detection.scale"][:2] == ["two numbers > 0", "`[0.1, 2.0]`"]
    assert cells["data.bad_images"][0] == "`skip`, `fail`"


def test_the_text_of_a_docstring_is_markdown_on_one_line(reference):
    text = "A *pattern*, or ``a|*``;\n  docs/data.md."
    assert reference.markdown_of(text) == r"A \*pattern\*, or ``a|*``; [data](../data.md)."


def test_the_search_leaves_out_the_pages_of_sources():
    from mkdocs.utils.meta import get_data

    outside = imported("outside", "scripts/site")
    content = outside.HIDDEN + outside.content_of(ROOT / "mkdocs.yml", "mkdocs.yml")
    text, meta = get_data(content)
    assert meta == {"search": {"exclude": True}}
    assert text.startswith("# mkdocs.yml\n")
