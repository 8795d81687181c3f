"""The licenses of what an installation brings, and whether kat may ask for it.

    python scripts/licenses.py            # of what every installation has
    python scripts/licenses.py data plot  # of these extras as well

Follows the requirements of kat among the installed packages and prints name, version, license. Exit
code 1: one of them is not installed, says nothing about its license, or has a GPL or AGPL (the LGPL
is allowed).
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

PROJECT = "kolmogorov-arnold-transformer"
UNKNOWN = "unknown"
COPYLEFT = re.compile(r"\bA?GPL|(?<!Lesser )General Public License|Affero", re.IGNORECASE)
HEADING = 2
"""The lines of a license file that are searched: the LGPL names the GPL further down."""


def main(extras: list[str]) -> int:
    """Prints the table; the exit code."""
    found, missing = closure(extras)
    packages = sorted(found.values(), key=lambda package: package.name.lower())
    lines = [(package.name, package.version, license_of(package)) for package in packages]
    width = max(len(name) for name, _, _ in lines)
    refused = [line for line in lines if line[2] == UNKNOWN or COPYLEFT.search(line[2])]
    for line in lines:
        mark = "  <-- not allowed" if line in refused else ""
        print(f"{line[0]:<{width}}  {line[1]:<20}  {line[2]}{mark}")
    print(f"{len(lines)} packages, {len(refused)} not allowed")
    if missing:
        print(f"not installed, so not checked: {', '.join(sorted(missing))}", file=sys.stderr)
    return int(bool(refused or missing))


def closure(extras: list[str]) -> tuple[dict[str, Distribution], set[str]]:
    """What kat requires, and what that requires: the packages by normalized name, those missing."""
    found: dict[str, Distribution] = {}
    missing: set[str] = set()
    waiting = requirements(distribution(PROJECT), {"", *extras})
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        if name != PROJECT:
            found[name] = package
        waiting += requirements(package, {"", *requirement.extras})
    return found, missing


def requirements(package: Distribution, extras: set[str]) -> list[Requirement]:
    """What a package requires here, with these of its extras."""
    every = map(Requirement, package.requires or [])
    return [
        one for one in every
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]  # fmt: skip


def license_of(package: Distribution) -> str:
    """The license as the package's metadata state it, or else the heading of its license file."""
    metadata = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    text = (metadata.get("License") or "").strip()
    given = metadata.get("License-Expression") or ", ".join(classifiers) or text.split("\n")[0]
    if given and given.upper() != "UNKNOWN":
        return given
    names = ("LICENSE", "LICENCE", "COPYING")
    texts = [file.read_text() for file in package.files or [] if file.name.startswith(names)]
    lines = [" ".join(line.split()) for text in texts[:1] for line in text.splitlines()]
    return ", ".join(list(filter(None, lines))[:HEADING]) or UNKNOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
