"""The pages to play with, served as the site would, without mkdocs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGES = Path(__file__).parent.parent.parent / "docs" / "playground"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


def html(page: str) -> str:
    """The HTML of a page's Markdown file, whose elements begin at the first ``<div``."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    title = re.search(r"^title: (.*)$", text, re.MULTILINE)
    assert title is not None
    body = text[text.index("<div") : text.index("</script>") + len("</script>")]
    icon = '<link rel="icon" href="data:,">'
    return f"<!doctype html><title>{title[1]}</title>{icon}<body>{body}"


@contextmanager
def served(files: Mapping[str, Path]) -> Iterator[str]:
    """Serves the pages and the files beside them; the address of the folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/playground/").split("?")[0]
            if name in ("function/", "digit/"):
                ending, content = ".html", html(name[:-1]).encode()
            else:
                path = files.get(name, PAGES / name)
                ending, content = path.suffix, path.read_bytes() if path.is_file() else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", TYPES.get(ending, "application/octet-stream"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/playground/"
    finally:
        server.shutdown()
        server.server_close()
