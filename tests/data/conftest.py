"""A cache of its own for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """The cache folder of one test, instead of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KAT_CACHE_DIR", str(folder))
    return folder
