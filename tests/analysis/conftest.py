"""What the tests of analysis share."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, whose files stay empty."""
    drawn = []

    def keep(figure, target, **_):
        drawn.append(figure)
        if isinstance(target, Path):
            target.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn
