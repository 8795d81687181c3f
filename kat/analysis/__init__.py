"""Costs and figures of models and runs."""

from kat.analysis.activation_memory import ActivationMemory, activation_memory
from kat.analysis.classification import Calibration, calibration, confusion_matrix
from kat.analysis.classification_report import ClassificationReport, write_table
from kat.analysis.flops import Cost, count
from kat.analysis.plots import plot_activations, plot_fit, plot_learning_curves
from kat.analysis.stability import StabilityMonitor, read_rows
from kat.analysis.stability_report import Verdict, plot_stability, write_stability_report

__all__ = [
    "ActivationMemory",
    "Calibration",
    "ClassificationReport",
    "Cost",
    "StabilityMonitor",
    "Verdict",
    "activation_memory",
    "calibration",
    "confusion_matrix",
    "count",
    "plot_activations",
    "plot_fit",
    "plot_learning_curves",
    "plot_stability",
    "read_rows",
    "write_stability_report",
    "write_table",
]
