"""The figure of docs/results/activations.md: contrasts with GELU, by mean, seeds and interval.

python examples/domains/step_figure.py docs/images/activations.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import step_study

from kat.analysis.figures.base import INK, MUTED, panels, save_figure, styled

CONTRASTS = {
    "fixed, AdamW, 1,600 steps": ("3-test", "fixed"),
    "GR-KAN, AdamW, 1,600 steps": ("3-test", "grkan"),
    "fixed, Muon, 400 steps": ("4-test", "fixed"),
    "GR-KAN, Muon, 400 steps": ("4-test", "grkan"),
    "fixed, AdamW, 400 steps": ("5-functions", "fixed"),
    "first block, and others": ("5-functions", "pair"),
    "one for all blocks": ("5-functions", "one"),
    "fixed, second text": ("5-text", "fixed"),
}


@styled
def main(path: Path) -> None:
    """Draws and writes."""
    rows = step_study.read_rows()
    figure, (axes,) = panels(1, 1, 2.6)
    for place, (stage, arm) in enumerate(CONTRASTS.values()):
        found = step_study.contrast(stage, arm, "gelu", rows)
        seeds = list(step_study.percents(stage, arm, "gelu", rows).values())
        color = INK if place == 0 else MUTED
        axes.plot([found.low, found.high], [place, place], color=color)
        axes.plot(seeds, [place] * len(seeds), "|", color=color)
        axes.plot(found.mean, place, "o", color=color)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(CONTRASTS)), list(CONTRASTS))
    axes.invert_yaxis()
    axes.set_xlabel("bits of test a byte, in % of GELU's")
    save_figure(figure, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
