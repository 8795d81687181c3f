"""The rational by explicit sums of powers."""

from __future__ import annotations

from typing import Any

import numpy as np


def rational(x: np.ndarray, numerator: Any, denominator: Any, form: str) -> np.ndarray:
    """P / Q by explicit sums of powers, sharing no code with the fitter."""
    top = sum(a * x**i for i, a in enumerate(numerator))
    if form == "A":
        inner = sum(abs(b) * np.abs(x) ** j for j, b in enumerate(denominator, start=1))
    else:
        inner = abs(sum(b * x**j for j, b in enumerate(denominator, start=1)))
    return np.asarray(top / (1.0 + inner))
