"""Analysis of models and runs: costs, verification, inspection, figures, reports."""

from typing import TYPE_CHECKING

from kat.extras import on_first_use

_NAMES = {
    ".cost.activation_memory": "ActivationMemory activation_memory",
    ".cost.flops": "Cost count",
    ".figures.activations": "plot_activations plot_evolution",
    ".figures.fit": "plot_fit",
    ".figures.learning_curves": "plot_learning_curves",
    ".figures.stability": "plot_stability",
    ".inspect.activations": "Activation learned_activations",
    ".inspect.stability": "Verdict",
    ".inspect.symbolic": "Reading read_symbols",
    "kat.tables": "write_table",
    "kat.training.tasks.classification.metrics": "Calibration calibration confusion_matrix",
}
if TYPE_CHECKING:
    from kat.analysis.cost.activation_memory import ActivationMemory, activation_memory
    from kat.analysis.cost.flops import Cost, count
    from kat.analysis.figures.activations import plot_activations, plot_evolution
    from kat.analysis.figures.fit import plot_fit
    from kat.analysis.figures.learning_curves import plot_learning_curves
    from kat.analysis.figures.stability import plot_stability
    from kat.analysis.inspect.activations import Activation, learned_activations
    from kat.analysis.inspect.stability import Verdict
    from kat.analysis.inspect.symbolic import Reading, read_symbols
    from kat.tables import write_table
    from kat.training.tasks.classification.metrics import Calibration, calibration, confusion_matrix
else:
    __getattr__, __dir__ = on_first_use(__name__, "plot", _NAMES)

__all__ = [
    "Activation",
    "ActivationMemory",
    "Calibration",
    "Cost",
    "Reading",
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
    "read_symbols",
    "write_table",
]
