"""Rows of a monitored run whose verdict is known."""

from __future__ import annotations

from kat.nn.stability import QUANTITIES

LAYERS = ("blocks.0.mlp.act1", "blocks.0.mlp.act2")


def monitored(steps=(0, 10, 20), **changes):
    """Layers that preserve everything; ``changes`` maps "step/layer" to other values."""
    usual = {**dict.fromkeys(QUANTITIES, 0.0), "q_min": 1.0, "q_max": 4.0, "outside": 0.01}
    rows = []
    for step in steps:
        rows.append({"step": step, "layer": "blocks.0", "gain": 3.0, "output_variance": 2.0})
        for number, layer in enumerate(LAYERS):
            row = {**usual, "step": step, "layer": layer, "gain": 1.0 + 0.1 * number}
            rows.append(row | changes.get(f"{step}/{number}", {}))
    return rows
