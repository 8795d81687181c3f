"""Turns the roles in docstrings, such as ``:func:`kat.rational```, into links of the reference.

A name is looked up where the docstring stands: in its class, then its module. A public name becomes
a link, any other one code. An extension of griffe.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc|obj):`(?P<short>~)?(?P<name>[\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Visits all objects of the package."""
        public = public_paths(pkg)
        for obj in objects(pkg):
            if obj.docstring:
                obj.docstring.value = linked(obj.docstring.value, obj, public)


def objects(parent: griffe.Object):
    """An object and all that is defined in it."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from objects(member)


def linked(text: str, scope: griffe.Object, public: frozenset[str]) -> str:
    """A docstring with its roles turned into links, or into code where nothing is public."""

    def link(match: re.Match[str]) -> str:
        name = match["name"]
        shown = name.rpartition(".")[2] if match["short"] else name
        target = resolved(name, scope)
        return f"[`{shown}`][{target}]" if target in public else f"`{shown}`"

    return ROLE.sub(link, text)


def resolved(name: str, scope: griffe.Object) -> str | None:
    """The full name of what a name in a docstring means: where it is defined."""
    package = scope.package
    if name.startswith(f"{package.path}."):
        return _target(package, name.removeprefix(f"{package.path}."))
    inner = scope if scope.is_class or scope.is_module else scope.parent
    while inner is not None:
        if found := _target(inner, name):
            return found
        inner = inner.parent if not inner.is_module else None
    return None


def _target(scope: griffe.Object, name: str) -> str | None:
    try:
        return scope[name].canonical_path
    except (KeyError, griffe.AliasResolutionError):
        return None


@lru_cache
def public_paths(package: griffe.Module) -> frozenset[str]:
    """Where the names in ``__all__`` of the packages are defined, with their public members."""
    paths = set()
    for module in objects(package):
        for name in (module.exports or []) if module.is_init_module else []:
            member = module.members[str(name)]
            paths.add(member.canonical_path)
            if member.is_class:
                inner = (item for item in member.members.values() if not item.name.startswith("_"))
                paths |= {item.canonical_path for item in inner}
    return frozenset(paths)
