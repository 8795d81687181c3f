"""Links of the pages: those out of docs/ become pages of the site."""

from __future__ import annotations

import re
import sys
from unittest.mock import Mock

import pytest

from tests.docs.public import ROOT


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "site"))
    import outside

    yield outside
    sys.modules.pop("outside")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("CHANGELOG.md", "changelog.md"),
        ("docs/training.md", "training.md"),
        ("docs/tutorials/first-layer.py", "tutorials/first-layer.md"),
        ("benchmarks/results/ablation", "files/benchmarks/results/ablation.md"),
        ("kat/analysis/cost/tables.py", "files/kat/analysis/cost/tables.py.md"),
        ("docs/no-such-page.md", None),
    ],
)
def test_a_path_of_the_repository_has_a_page(outside, path, target):
    assert outside.site_path(path, ROOT) == target


def test_links_in_code_are_left_alone(outside):
    text = "[a](b.md)\n```\n[a](b.md)\n```\n[a](b.md)\n"
    changed = outside.outside_code(text, lambda part: part.replace("b.md", "c.md"))
    assert changed == "[a](c.md)\n```\n[a](b.md)\n```\n[a](c.md)\n"


def test_a_folder_is_a_page_with_its_files(outside):
    folder = ROOT / "benchmarks" / "results" / "ablation"
    page = outside.content_of(folder, "benchmarks/results/ablation")
    tables = sorted(path.name for path in folder.glob("*.csv"))
    assert re.findall(r"^## (.*)$", page, re.M) == tables
    assert (folder / tables[0]).read_text().strip() in page


def test_links_of_all_pages_lead_to_files_of_the_repository(outside):
    tutorials = (ROOT / "docs" / "tutorials").glob("*.py")
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *tutorials]:
        lines = page.read_text().splitlines()
        prose = [line for line in lines if page.suffix == ".md" or line.startswith("# ")]
        for match in outside.LINK.finditer("\n".join(prose)):
            path = (page.parent / match["path"]).resolve()
            assert not match["path"] or path.exists(), f"{page}: {match[0]}"


def test_a_page_in_a_folder_has_pages_for_the_files_that_it_links(outside, tmp_path):
    from mkdocs.structure.files import File, Files

    config = Mock(docs_dir=ROOT / "docs", site_dir=tmp_path, use_directory_urls=True)
    page = File.generated(config, "results/a.md", content="[a](../../LICENSE)")
    files = outside.on_files(Files([page]), config)
    assert files.get_file_from_path("files/LICENSE.md")
