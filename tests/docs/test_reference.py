"""The API reference has every public name once in its place, and nothing else."""

from __future__ import annotations

import re

from tests.docs.public import ROOT, public_objects

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
ENTRY = re.compile(
    r"^::: (?P<path>[\w.]+)(?:\n    options:\n      heading: (?P<heading>\S+))?", re.M
)


def test_the_reference_has_every_public_name_and_no_other():
    entries = [match for page in PAGES for match in ENTRY.finditer(page.read_text())]
    names = [match["heading"] or match["path"] for match in entries]
    assert sorted(names) == sorted(public_objects())
