"""Fixtures of the tests of data."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def every_test_has_its_own_cache(own_cache):
    """Tests share no cache."""
