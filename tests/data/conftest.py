"""What the tests of data share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """The folder of a cache for each test alone, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KAT_CACHE_DIR", str(folder))
    return folder
