"""Every tutorial has a place on the site, and every domain a section of its page."""

from __future__ import annotations

import pytest

from tests.docs.public import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml, of the extra [cli], is not installed")
TUTORIALS = ROOT / "docs" / "tutorials"
DOMAINS = yaml.safe_load((ROOT / "examples" / "domains" / "plan.yaml").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_is_listed_and_in_the_navigation(name):
    assert f"](tutorials/{name}.py)" in (ROOT / "docs" / "getting-started.md").read_text()
    assert f"- tutorials/{name}.md\n" in (ROOT / "mkdocs.yml").read_text()


def test_the_page_of_the_domains_has_a_section_for_each_and_leads_to_the_notebooks():
    page = (ROOT / "docs" / "domains.md").read_text()
    for name in DOMAINS:
        (section,) = (each for each in page.split("\n## ") if f"\n\n`{name}.py`: " in each)
        notebook = TUTORIALS / f"domain-{name}.py"
        if notebook.exists():
            assert f"(tutorials/{notebook.name})" in section
            assert f"(../domains.md#{name})" in notebook.read_text()
