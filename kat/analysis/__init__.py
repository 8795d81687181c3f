"""Costs and figures of models and runs."""

from kat.analysis.flops import Cost, count
from kat.analysis.plots import plot_activations, plot_fit, plot_learning_curves

__all__ = ["Cost", "count", "plot_activations", "plot_fit", "plot_learning_curves"]
