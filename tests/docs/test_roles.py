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


def test_a_public_name_becomes_a_link_to_where_it_is_defined(package):
    assert "[`pack.parts.Part`][pack.parts.Part]" in package.docstring.value
    assert "[`shape`][pack.forms.shape]" in package.docstring.value
    assert "as [`Part`][pack.parts.Part] says" in package["parts.Part.cut"].docstring.value
    assert "[`cut`][pack.parts.Part.cut]" in package["parts.Part"].docstring.value


def test_what_is_not_public_or_not_there_is_code(package):
    assert package.docstring.value.endswith("and `LIMIT`.")
    assert "or `_glue` it" in package["parts.Part"].docstring.value
    assert package["parts.Part"].docstring.value.endswith("and `nothing`.")


def test_a_name_is_looked_up_where_the_docstring_stands(package):
    docstring = package["forms.shape"].docstring.value
    assert docstring == "The shape of a `Part`, or of a [`pack.Part`][pack.parts.Part]."
