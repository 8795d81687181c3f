"""Draws the picture of README: the activations of a small KAT while it learns, light and dark.

    kat train --config digits --seed 0 --out runs/digits
    python scripts/learning_picture.py runs/digits docs/images

An SVG a palette, which moves by itself: from SiLU, the start, to what the run has learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import kat
from kat.analysis import learned_activations
from kat.analysis.inspect.predictions import images_of_run, normalized
from kat.files import replacing
from kat.nn import read_coefficient_history

WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 190, 10, 34, 30
"""Of a panel, and around it."""
BETWEEN = 66
"""From the bottom of a panel to the next one, with the axis and a title."""
X, LOW, HIGH = torch.linspace(-3, 3, 49), -1.0, 3.2
TIMES = (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1)
"""The parts of the training that are drawn."""
SECONDS, HELD = 8, 0.6
"""Of a round, and the part of it that moves; then the last picture stays."""
LINES = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#dd8833", "#888888")
PALETTES = {"light": ("#1f2328", "#d0d7de"), "dark": ("#e6edf3", "#3d444d")}
"""The colors of text and frames."""


def main() -> None:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    options = parser.parse_args()
    history = read_coefficient_history(options.run / "coefficients.csv")
    model, record = kat.models.load_model(options.run)
    images = images_of_run(options.run, model, record, 512, None)
    seen = learned_activations(model, normalized(images.batches(), record), width=3)
    blocks = []
    for activation in seen:
        if activation.name.endswith("act2"):
            middle = (activation.edges[1:] + activation.edges[:-1]) / 2
            density = np.interp(X, middle, activation.histogram.mean(0))
            functions = history[activation.name].functions(X.double())
            blocks.append((functions, torch.from_numpy(density)))
    for palette in PALETTES:
        with replacing(options.out / f"learning-{palette}.svg") as path:
            path.write_text(draw(blocks, *PALETTES[palette]), encoding="utf-8")


def draw(blocks: list[tuple[Tensor, Tensor]], ink: str, frame: str) -> str:
    """The picture: of each block the functions (steps, groups, points) and the inputs' density."""
    across, down = 2, -(-len(blocks) // 2)
    width = LEFT + across * (WIDTH + GAP) - GAP + 8
    height = down * (HEIGHT + BETWEEN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' font-family="sans-serif" font-size="20" fill="{ink}">',
        "<title>The activations of a small KAT while it learns handwritten digits</title>",
    ]
    for number, (values, density) in enumerate(blocks):
        left = LEFT + number % across * (WIDTH + GAP)
        top = TOP + number // across * (HEIGHT + BETWEEN)
        parts.append(f'<g transform="translate({left} {top})">')
        parts += panel(f"block {number + 1}", values, density, ink, frame)
        parts.append("</g>")
    parts.append("</svg>\n")
    return "\n".join(parts)


def panel(title: str, values: Tensor, density: Tensor, ink: str, frame: str) -> list[str]:
    """The axes, the density of the inputs, the moving lines of the groups, the dashed start."""
    zero = place(torch.zeros(1), torch.zeros(1))[0]
    parts = [
        f'<text x="0" y="-9" font-weight="bold">{title}</text>',
        f'<path d="M0 {zero[1]}H{WIDTH}M{zero[0]} 0V{HEIGHT}" stroke="{frame}" fill="none"/>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" stroke="{frame}" fill="none"/>',
        f'<text x="0" y="{HEIGHT + 22}">-3</text>',
        f'<text x="{WIDTH}" y="{HEIGHT + 22}" text-anchor="end">3</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 22}" text-anchor="middle">x</text>',
        f'<svg width="{WIDTH}" height="{HEIGHT}">',  # cuts off what is outside
        f'<path d="{path_of(LOW + 2 * density)}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z" fill="{frame}"'
        ' opacity="0.6"/>',
    ]
    steps = [round(time * (len(values) - 1)) for time in TIMES]
    times = [HELD * number / (len(steps) - 1) for number in range(len(steps))]
    moments = ";".join(f"{time:.3f}" for time in [*times, 1])
    for group in range(values.shape[1]):
        shapes = [path_of(values[step, group]) for step in steps]
        moving = ";".join([*shapes, shapes[-1]])
        parts.append(
            f'<path d="{shapes[-1]}" fill="none" stroke="{LINES[group % len(LINES)]}"'
            f' stroke-width="2.5"><animate attributeName="d" dur="{SECONDS}s"'
            f' repeatCount="indefinite" keyTimes="{moments}" values="{moving}"/></path>'
        )
    start = path_of(values[0, 0])
    parts.append(
        f'<path d="{start}" fill="none" stroke="{ink}" stroke-width="1.5" stroke-dasharray="6 5"/>'
        "</svg>"
    )
    return parts


def path_of(y: Tensor) -> str:
    """The line through the values at X."""
    return "M" + "L".join(f"{across:.0f} {down:.1f}" for across, down in place(X, y))


def place(x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    """Points in a panel."""
    across = (x + 3) / 6 * WIDTH
    down = (HIGH - y) / (HIGH - LOW) * HEIGHT
    return list(zip(across.tolist(), down.tolist(), strict=True))


if __name__ == "__main__":
    main()
