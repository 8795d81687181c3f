"""Costs and figures of models and runs."""

from kat.analysis.activation_memory import ActivationMemory, activation_memory
from kat.analysis.activation_plots import plot_activations, plot_evolution
from kat.analysis.activations import Activation, learned_activations
from kat.analysis.classification import Calibration, calibration, confusion_matrix
from kat.analysis.classification_report import ClassificationReport, write_table
from kat.analysis.flops import Cost, count
from kat.analysis.plots import plot_fit, plot_learning_curves
from kat.analysis.stability import StabilityMonitor, read_rows
from kat.analysis.stability_report import Verdict, plot_stability, write_stability_report
from kat.analysis.symbolic import Reading, read_symbols

__all__ = [
    "Activation",
    "ActivationMemory",
    "Calibration",
    "ClassificationReport",
    "Cost",
    "Reading",
    "StabilityMonitor",
    "Verdict",
    "activation_memory",
    "calibration",
    "confusion_matrix",
    "count",
    "learned_activations",
    "plot_activations",
    "plot_evolution",
    "plot_fit",
    "plot_learning_curves",
    "plot_stability",
    "read_rows",
    "read_symbols",
    "write_stability_report",
    "write_table",
]
