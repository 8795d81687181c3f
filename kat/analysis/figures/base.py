"""Parts of all figures: style, files, titles to hover, labels, names letter by letter, images."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from kat.files import replacing, write_text
from kat.text import printable

_FILE = Path(__file__).with_name("style.mplstyle")
STYLE = mpl.rc_params_from_file(_FILE, use_default_template=False)
"""The style of all figures; notebooks use it as ``plt.style.use("kat.analysis.figures.style")``."""
styled = mpl.rc_context(STYLE)
"""Decorates functions that draw in :data:`STYLE`."""
INK, MUTED, WIDTH = "#1d2228", "#7d8790", 5.6
"""The color of text, the muted color of lesser marks, and the width of a figure in inches."""
_HOVER = "hover: "
_PAGE = """<style>svg {color: #5a6570} text {font-family: system-ui, sans-serif !important}
@media (prefers-color-scheme: dark) {svg {color: #9aa6b1}}</style>
 <metadata"""
"""The font of the system, and the color of text on the background of a page, light or dark."""


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the same figure is always the same bytes.

    Args:
        figure: to be written.
        path: the path of the file; its suffix chooses the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        write_text(path, svg(figure).replace("<metadata", _PAGE, 1))
        return
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {}
    with replacing(path) as partial, mpl.rc_context(STYLE):
        figure.savefig(partial, dpi=150, metadata=metadata)


def svg(figure: Figure, salt: str = "kat") -> str:
    """Return the figure as SVG on a transparent ground, with the titles of :func:`hover`.

    Text is text, and the ink is CSS's current color. Ids differ by the salt.
    """
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the viewer's fonts have it
        metadata = {"Date": None}
        figure.savefig(stream, format="svg", dpi=150, metadata=metadata, transparent=True)
    pattern = rf"<g id=([\"']){_HOVER}(.*?)\1>"
    text = re.sub(pattern, r"<g><title>\2</title>", stream.getvalue())
    return text.replace(INK, "currentColor")


def hover(artist: Artist, text: str) -> None:
    """Give a part of a figure a title, which SVG shows where the mouse rests on it."""
    artist.set_gid(_HOVER + printable(text))


def plain(text: str) -> str:
    """Return printable text that matplotlib neither reads as mathematics nor hides in a legend."""
    text = printable(text).replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def colors(count: int) -> list[Any]:
    """Return distinct colors, from the style if it has enough."""
    found = STYLE["axes.prop_cycle"].by_key()["color"][:count]
    many = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    return found if len(found) == count else list(many)


def panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with this many panels of a height in inches, at most so many side by side."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + height * rows), layout="constrained")
    made = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in made[count:]:
        axes.set_axis_off()
    return figure, made[:count]


def label_lines(axes: Axes, lines: Sequence[Line2D], size: float = 9) -> None:
    """Write the labels of lines at their right ends, in their colors, none over another.

    Args:
        axes: their limits stay as they are.
        lines: the last point of each is its end.
        size: of the text in points.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    last: Any = [line.get_xydata() for line in lines]
    ends = axes.transData.transform(np.reshape([points[-1] for points in last], (-1, 2)))
    wanted = axes.transAxes.inverted().transform(ends)[:, 1].clip(0, 1)
    order = np.argsort(wanted, kind="stable")
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    steps = 1.15 * size / height * np.arange(len(lines))
    # A label moves up by as much as those below it need, and all by as much as the top has no room.
    moved = np.minimum(np.maximum.accumulate(wanted[order] - steps), 1 - steps[-1:])
    for place, height in zip(order, steps + moved, strict=True):
        axes.annotate(
            lines[place].get_label(),
            xy=(1, height),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=size,
            color=lines[place].get_color(),
            va="center",
        )


def draw_picture(axes: Axes, picture: Tensor, title: Sequence[str] = ()) -> None:
    """Draw an image without ticks, in the coordinates of its pixels.

    Args:
        axes: where it is drawn.
        picture: (C, H, W) uint8, gray or RGB.
        title: its lines above the image.
    """
    height, width = picture.shape[-2:]
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[], frame_on=False, anchor="N")
    if title:
        axes.set_title("\n".join(map(plain, title)), fontsize=9)
