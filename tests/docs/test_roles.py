"""Roles in docstrings become links to public names, and code where there is nothing to link to."""

from __future__ import annotations

import pytest

from tests.docs.public import griffe, imported

SOURCES = {
    "__init__.py": '''
"""See :func:`shape`, :class:`pack.parts.Part` and :data:`LIMIT`."""
from pack.parts import Part
from pack.forms import shape
__all__ = ["Part", "shape"]
LIMIT = 3
''',
    "parts.py": '''
class Part:
    """A part; :meth:`cut` it, or :meth:`_glue` it, see :func:`~pack.shape` and :func:`nothing`."""
    def cut(self):
        """Cuts as :class:`Part` says."""
    def _glue(self):
        """Glues."""
''',
    "forms.py": '''
def shape():
    """The shape of a :class:`Part`, or of a :class:`pack.Part`."""
''',
}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "pack"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    extension = imported("roles", "scripts/site").Roles
    return griffe.load(
        "pack", search_paths=[str(tmp_path)], extensions=griffe.load_extensions(extension)
    )


def test_a_public_name_becomes_a_link_and_what_is_not_public_is_code(package):
    part, docstring = package["parts.Part"].docstring.value, package.docstring.value
    assert "[`pack.parts.Part`][pack.parts.Part]" in docstring
    assert "[`shape`][pack.forms.shape]" in docstring
    assert docstring.endswith("and `LIMIT`.")
    assert "as [`Part`][pack.parts.Part] says" in package["parts.Part.cut"].docstring.value
    assert "[`cut`][pack.parts.Part.cut]" in part
    assert "or `_glue` it" in part
    assert part.endswith("and `nothing`.")
    assert package["forms.shape"].docstring.value == (
        "The shape of a `Part`, or of a [`pack.Part`][pack.parts.Part]."
    )
