"""Files that every evaluation writes into its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kat.analysis.figures.classification import draw_confusion
from kat.analysis.figures.save import save_figure
from kat.files import write_text
from kat.tables import write_table


def write_metrics(metrics: Mapping[str, Any], folder: Path) -> None:
    """Writes metrics.json; the folder is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def write_confusion(matrix: np.ndarray, classes: Sequence[str], folder: Path) -> None:
    """Writes confusion.csv, .png and .svg.

    Args:
        matrix: (K, K) counts, true classes down, predicted ones across.
        classes: K names.
        folder: where to write.
    """
    rows = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    write_table(folder / "confusion.csv", ["true \\ predicted", *classes], rows)
    for ending in ("png", "svg"):
        save_figure(draw_confusion(matrix, list(classes)), folder / f"confusion.{ending}")


def finite(value: float) -> float | None:
    """The value, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
