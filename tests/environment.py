"""Environments that have some of the installed packages only, as users' environments do."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def requirements(extra: str | None = None) -> list[Requirement]:
    """Return the direct requirements of the project, or of an extra.

    An extra that includes others has their requirements too.
    """
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for text in EXTRAS[extra] if extra else ():
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += [r for included in requirement.extras for r in requirements(included)]
        else:
            found.append(requirement)
    return found


def with_all_they_need(wanted: Iterable[Requirement]) -> set[str]:
    """The names of the distributions that fulfill requirements, and what these need in turn."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    rest = list(wanted)
    while rest:
        requirement = rest.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        found.add(key[0])
        rest += _needed_by(*key)
    return found


def _needed_by(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def make_environment(folder: Path, extra: str | None = None) -> Path:
    """A folder of links to what the project needs, or an extra of it, for :func:`run_in`."""
    return link(folder, requirements(extra))


def link(folder: Path, wanted: Iterable[Requirement]) -> Path:
    """Fills a folder with links to requirements, and to what these need in turn."""
    for name in sorted(with_all_they_need(wanted)):
        files = importlib.metadata.distribution(name).files or []
        site = Path(str(importlib.metadata.distribution(name).locate_file("")))
        for top in {file.parts[0] for file in files} - {"..", "bin", "__pycache__"}:
            link = folder / top
            if not link.exists():  # several distributions may share a namespace
                link.symlink_to(site / top)
    return folder


def run_in(
    environment: Path, code: str, *arguments: str, project: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python code where nothing but the standard library, this project and links exist.

    Args:
        environment: the folder of links.
        code: the code.
        arguments: its ``sys.argv[1:]``.
        project: False if this project must not exist either.
        variables: of the process's environment.
    """
    settings = {
        "PYTHONPATH": os.pathsep.join(map(str, [environment, ROOT] if project else [environment])),
        "PYTHONNOUSERSITE": "1",
        "PYTHONWARNINGS": "ignore:Failed to initialize NumPy",  # torch's own, on import
    }
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | settings | variables,
        cwd=environment,
    )
