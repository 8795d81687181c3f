"""The API reference has every public name once in its place, and nothing else."""

from __future__ import annotations

import re

from tests.docs.public import ROOT, public_objects

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)(?:\n    options:\n      heading: (\S+))?|^### `(\S+)`", re.M)
"""An object, perhaps under another name, or a name that refers to one."""


def test_the_reference_has_every_public_name_and_no_other():
    entries = [entry for page in PAGES for entry in ENTRY.findall(page.read_text())]
    names = [reference or heading or path for path, heading, reference in entries]
    assert sorted(names) == sorted(public_objects())
