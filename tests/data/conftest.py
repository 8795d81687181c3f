"""What the tests of data share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def every_test_has_its_own_cache(own_cache):
    """What a test reads is not what another has kept."""
