"""Every tutorial has a place on the site, and every domain a tutorial."""

from __future__ import annotations

import pytest

from tests.docs.public import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml, of the extra [cli], is not installed")
TUTORIALS = ROOT / "docs" / "tutorials"
DOMAINS = yaml.safe_load((ROOT / "examples" / "domains" / "plan.yaml").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_is_listed_and_in_the_navigation(name):
    assert f"]({name}.py)" in (TUTORIALS / "index.md").read_text()
    assert f"- tutorials/{name}.md\n" in (ROOT / "mkdocs.yml").read_text()


def test_every_domain_has_a_notebook_and_no_other():
    found = {path.stem.removeprefix("domain-") for path in TUTORIALS.glob("domain-*.py")}
    assert found == set(DOMAINS)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_notebook_and_the_page_of_a_domain_lead_to_each_other(name):
    page, notebook = ROOT / "docs" / "domains.md", TUTORIALS / f"domain-{name}.py"
    sections = page.read_text().split("\n## ")
    (section,) = (each for each in sections if f"\n\n`{name}.py`: " in each)
    assert f"(tutorials/{notebook.name})" in section
    heading = section.partition("\n")[0].lower().replace(",", "").replace(" ", "-")
    last = notebook.read_text().rpartition("# %% [markdown]")[2]
    assert f"(../domains.md#{heading})" in last
    assert f"`python examples/domains/{name}.py`" in last
