"""No other module takes the place of a package that is served, as benchmarks/rational.py would."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def nothing_else_is_imported(monkeypatch):
    module = sys.modules.get("rational")
    if module is not None and not hasattr(module, "__path__"):
        monkeypatch.delitem(sys.modules, "rational")
