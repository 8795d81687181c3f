"""Parts of all figures: files, titles to hover, names letter by letter, images."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.files import replacing, write_text
from kat.text import printable

_HOVER = "hover: "


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, whole or not at all; the same figure is always the same bytes.

    Args:
        figure: to be written.
        path: the path of the file; its suffix chooses the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        write_text(path, svg(figure))
        return
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {}
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, metadata=metadata)


def svg(figure: Figure, salt: str = "kat") -> str:
    """The figure as SVG, with the titles of :func:`hover`; ids differ by the salt."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    pattern = rf"<g id=([\"']){_HOVER}(.*?)\1>"
    return re.sub(pattern, r"<g><title>\2</title>", stream.getvalue())


def hover(artist: Artist, text: str) -> None:
    """Give a part of a figure a title, which SVG shows where the mouse rests on it."""
    artist.set_gid(_HOVER + printable(text))


def plain(text: str) -> str:
    """Printable text that matplotlib does not read as mathematics, nor leaves out of a legend."""
    text = printable(text).replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def colors(count: int) -> list[Any]:
    """Distinct colors: matplotlib's default ones if they suffice."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    return list(mpl.colormaps["turbo"](np.linspace(0, 1, count)))


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with this many panels of a size in inches, at most so many side by side."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figsize = size[0] * columns, 0.4 + size[1] * rows
    figure = Figure(figsize=figsize, layout="constrained")
    made = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in made[count:]:
        axes.set_axis_off()
    return figure, made[:count]


def draw_picture(axes: Axes, picture: Tensor, title: Sequence[str] = ()) -> None:
    """Draws an image without ticks, in the coordinates of its pixels.

    Args:
        axes: where it is drawn.
        picture: (C, H, W) uint8, gray or RGB.
        title: its lines above the image.
    """
    height, width = picture.shape[-2:]
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title("\n".join(map(plain, title)), fontsize=8)
