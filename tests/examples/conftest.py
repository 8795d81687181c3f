"""The modules of examples/domains."""

from __future__ import annotations

import importlib

import pytest

from tests.examples.domains import FOLDER


@pytest.fixture(scope="module")
def example():
    """Imports a module of examples/domains by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module
