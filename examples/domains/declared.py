"""Declarations of studies: files that have not changed since their first commit."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path


def refuse_changes(path: Path) -> str:
    """Return the commit that declared a study: the one that added the file.

    Raises:
        SystemExit: the declaration has changed since, or its history is not there.
    """
    git = ["git", "-C", str(path.parent)]
    log = [*git, "log", "--diff-filter=A", "--format=%H", "--", path.name]
    found = subprocess.run(log, capture_output=True, text=True, check=False)
    commits = found.stdout.split()
    if not commits:
        raise SystemExit(f"{path.name} is not committed, so nothing is declared: {found.stderr}")
    show = [*git, "show", f"{commits[-1]}:./{path.name}"]
    declared = subprocess.check_output(show, text=True)
    now = path.read_text(encoding="utf-8")
    if now != declared:
        lines = difflib.unified_diff(declared.splitlines(), now.splitlines(), lineterm="", n=0)
        raise SystemExit(f"the declaration of {commits[-1]} has changed:\n" + "\n".join(lines))
    return commits[-1]
