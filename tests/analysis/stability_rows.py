"""Rows of a monitored run whose verdict is known."""

from __future__ import annotations

LAYERS = ("blocks.0.mlp.act1", "blocks.0.mlp.act2")


def monitored(steps=(0, 10, 20), **changes):
    """Layers that preserve everything; ``changes`` maps "step/layer/quantity" to a value."""
    rows = []
    for step in steps:
        rows.append({"step": step, "layer": "blocks.0", "gain": 3.0, "output_variance": 2.0})
        for number, layer in enumerate(LAYERS):
            row = {
                "step": step, "layer": layer, "gain": 1.0 + 0.1 * number, "input_variance": 1.0,
                "activation_variance": 0.5, "output_variance": 1.0, "input_gradient": 0.1,
                "weight_gradient": 0.1, "numerator_gradient": 0.1, "denominator_gradient": 0.1,
                "q_min": 1.0, "q_max": 4.0, "outside": 0.01, "drift": 0.0, "dead_groups": 0.0,
                "exploding_groups": 0.0,
            }  # fmt: skip
            rows.append(row | changes.get(f"{step}/{number}", {}))
    return rows
