"""Numbers and colors of the interactive figures."""

from __future__ import annotations

import numpy as np

from kat.analysis.figures.interactive.base import SERIES, numbers


def test_numbers_are_short_and_finite():
    assert numbers([1 / 3, float("inf"), np.float32(2)]) == [0.333333, None, 2.0]


def test_series_can_be_told_from_both_pages():
    for color in SERIES:
        assert min(_contrast(color, "#ffffff"), _contrast(color, "#15181c")) >= 3.5


def _contrast(first: str, second: str) -> float:
    """As WCAG 2 has it."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
