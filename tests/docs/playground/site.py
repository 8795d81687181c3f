"""The pages to play with, laid out as on the site, without mkdocs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.docs.public import ROOT

PAGES = ROOT / "docs" / "playground"


def html(page: str) -> str:
    """The HTML of a page's Markdown file, whose elements begin at the first ``<div``."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    title = re.search(r"^title: (.*)$", text, re.MULTILINE)
    assert title is not None
    body = text[text.index("<div") : text.index("</script>") + len("</script>")]
    head = f'<meta charset="utf-8"><title>{title[1]}</title><link rel="icon" href="data:,">'
    return f"<!doctype html>{head}<body>{body}"


def write_site(folder: Path, files: Mapping[str, Path]) -> None:
    """Lays out the pages, what they load, and files by their names beside them."""
    for page in ("function", "digit"):
        (folder / page).mkdir()
        (folder / page / "index.html").write_text(html(page), encoding="utf-8")
    loaded = {path.name: path for path in PAGES.iterdir() if path.suffix != ".md"}
    for name, path in {**loaded, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
