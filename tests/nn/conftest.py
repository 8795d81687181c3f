"""No call is small in the tests of this folder: layers run in blocks where they can."""

from __future__ import annotations

import pytest

from kat.nn.blocks import decision


@pytest.fixture(autouse=True)
def no_call_is_small(monkeypatch):
    monkeypatch.setattr(decision, "SMALL", 1)
