"""No call is small in the tests of this folder: layers run by their formula where they can."""

from __future__ import annotations

import pytest

from kat.nn.execution.run import no_small_calls


@pytest.fixture(autouse=True)
def no_call_is_small():
    with no_small_calls():
        yield
