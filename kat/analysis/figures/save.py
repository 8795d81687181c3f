"""Figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from kat.files import replacing


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, whole or not at all; the same figure is always the same bytes.

    Args:
        figure: to be written.
        path: the path of the file; its suffix chooses the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".svg": "Date", ".pdf": "CreationDate"}
    metadata: dict[str, Any] = {dates[path.suffix]: None} if path.suffix in dates else {}
    with replacing(path) as partial, mpl.rc_context({"svg.hashsalt": "kat"}):
        figure.savefig(partial, dpi=150, metadata=metadata)
