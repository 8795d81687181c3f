"""Histories of runs, by hand."""

from __future__ import annotations

from kat.analysis.figures.interactive.learning_curves import curves
from tests.analysis import report_pages as pages


def test_curves_are_means_in_the_range_of_the_runs():
    runs = {"KAT": [pages.history(80.0), pages.history(84.0)], "ViT": [pages.history(70.0)]}
    shaded, kat, vit, _ = curves(runs, "top1").data
    assert (kat.x, kat.y) == ((1, 2), (72.0, 82.0))
    assert (shaded.x, shaded.y) == ((1, 2, 2, 1), (74.0, 84.0, 80.0, 70.0))
    assert kat.line.color == shaded.fillcolor[:7] != vit.line.color
    dotted, plain, kept = curves({"ViT": runs["ViT"]}, "val_loss", dotted="train_loss").data
    assert (kept.x, kept.y, kept.marker.symbol) == ((2,), (0.5,), "circle-open")
    assert (dotted.line.dash, dotted.y, plain.y) == ("dot", (2.0, 1.0), (1.5, 0.5))
