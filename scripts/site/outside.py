"""Makes the links that lead out of docs/ work on the site, as they do in the repository.

A file outside docs/ that a page links to becomes a page of the site, a folder a list of its files.
CHANGELOG.md, CONTRIBUTING.md and RELEASING.md are pages too. A hook of mkdocs.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
}
"""Files of the repository that are pages of the site, and where."""
FOLDER = "files"
"""Where the others are."""
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
"""What keeps a page out of the search."""
BOOST, BOOSTS = 3, dict.fromkeys(PAGES.values(), 1)
"""The weight in the search of pages that stand in no folder, as how-to pages do, and of some."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)(?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of files outside docs/."""
    root = Path(config.docs_dir).parent
    linked: set[str] = set()
    for file in files.documentation_pages():
        place = posixpath.dirname(f"docs/{file.src_uri}")
        linked |= linked_outside(file.content_string, root, place)
    for source, target in PAGES.items():
        text = (root / source).read_text()
        linked |= linked_outside(text, root, "")
        files.append(File.generated(config, target, content=text))
    for path in sorted(linked - set(PAGES)):
        page = File.generated(config, page_of(path), content=HIDDEN + content_of(root / path, path))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files outside docs/ into links to their pages; weighs pages in the search."""
    root = Path(config.docs_dir).parent
    sources = {target: source for source, target in PAGES.items()}
    uri = page.file.src_uri
    if uri.startswith(f"{FOLDER}/"):
        return markdown
    if "/" not in uri:
        page.meta.setdefault("search", {"boost": BOOSTS.get(uri, BOOST)})
    place = "" if uri in sources else posixpath.dirname(f"docs/{uri}")

    def rewritten(match: re.Match[str]) -> str:
        target = site_path(posixpath.normpath(posixpath.join(place, match["path"])), root)
        if not match["path"] or target is None:
            return match[0]
        return posixpath.relpath(target, posixpath.dirname(uri) or ".") + (match["anchor"] or "")

    return outside_code(markdown, lambda text: LINK.sub(rewritten, text))


def outside_code(markdown: str, change) -> str:
    """Changes the text of a page outside fenced code."""
    parts = FENCE.split(markdown)
    return "".join(change(part) if i % 2 == 0 else part for i, part in enumerate(parts))


def linked_outside(text: str, root: Path, place: str) -> set[str]:
    """The files and folders outside docs/ to which a text in a folder links."""
    paths = (
        posixpath.normpath(posixpath.join(place, match["path"])) for match in LINK.finditer(text)
    )
    inside = (path for path in paths if path != "." and not path.startswith(("docs/", "..")))
    return {path for path in inside if (root / path).exists()}


def site_path(path: str, root: Path) -> str | None:
    """The path in docs/ of a path in the repository; None if there is no such file."""
    if path in PAGES:
        return PAGES[path]
    if not (root / path).exists() or path == ".":
        return None
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        notebook = inside.startswith("tutorials/") and inside.endswith(".py")
        return inside.removesuffix(".py") + ".md" if notebook else inside
    return page_of(path)


def page_of(path: str) -> str:
    """The page of the site for a file or folder outside docs/."""
    return f"{FOLDER}/{path}.md"


def content_of(path: Path, name: str) -> str:
    """A page with a file's text, or with the texts of the files in a folder."""
    if path.is_file():
        return f"# {path.name}\n\n`{name}`\n\n{_fenced(path)}"
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix != ".svg")
    parts = [f"## {file.name}\n\n{_fenced(file)}" for file in files]
    return "\n\n".join([f"# {path.name}", f"`{name}`", *parts])


def _fenced(path: Path) -> str:
    text = path.read_text()
    fence = "`" * (3 + max((len(run) for run in re.findall("`{3,}", text)), default=0))
    return f"{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
