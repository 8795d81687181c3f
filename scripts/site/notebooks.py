"""Runs the tutorials, which are jupytext scripts, and makes pages of the site of them.

A page has the text, the code and what the code printed and drew; the executed notebook is beside it
for download. The log has the seconds that each ran. A hook of mkdocs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

FOLDER = "tutorials"
LONGEST = 300
"""Seconds until a cell fails."""
OWN = re.compile(r"^(?:.*?Warning: )?((?:kat|kanify)\b.*\n?)", re.MULTILINE)
"""A line of kat on standard error, without the file that Python names before a warning."""
LOG = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page, the notebook and the figures of each tutorial."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a notebook for each core, at the same time
    scripts = sorted((Path(config.docs_dir) / FOLDER).glob("*.py"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for script, notebook in zip(scripts, pool.map(executed, scripts), strict=True):
            for name, content in pages_of(notebook, script.stem).items():
                files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files


def executed(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script, with the outputs of its cells."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    options = {"coalesce_streams": True, "extra_arguments": ["--log-level=40"]}
    start = monotonic()
    NotebookClient(notebook, timeout=LONGEST, **options).execute()
    LOG.info("%s ran in %.0f s", script.name, monotonic() - start)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(readable(cell.outputs))
    return notebook


def readable(outputs: Iterable[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """The outputs without what other libraries say on standard error about their surroundings."""
    for output in outputs:
        if output.get("name") == "stderr":
            output.text = "".join(OWN.findall(output.text))
        if output.get("text") != "":
            yield output


def pages_of(notebook: nbformat.NotebookNode, name: str) -> dict[str, str | bytes]:
    """The files of an executed notebook: ``name.md``, ``name.ipynb`` and its figures."""
    resources = {"output_files_dir": f"{name}-figures", "unique_key": name}
    text, extracted = MarkdownExporter().from_notebook_node(notebook, resources)
    link = f"[Download this page as a notebook]({name}.ipynb){{ .md-button }}"
    pages: dict[str, str | bytes] = {f"{name}.md": f"{text.rstrip()}\n\n{link}\n"}
    pages[f"{name}.ipynb"] = nbformat.writes(notebook)
    return pages | extracted["outputs"]
