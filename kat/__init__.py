"""Kolmogorov-Arnold Transformer (KAT): rational activations, GR-KAN layers and KAT models.

``import kat`` imports torch and the layers. Its models are registered with timm as soon as timm or
``kat.models`` is imported, before or after.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from kat.extras import on_first_use
from kat.import_hook import import_with
from kat.version import __version__

_NAMES = {
    ".": "analysis data deploy models training",
    ".api": "TrainedModel calibrate evaluate load train",
    ".models.adapt": "adapt",
    ".models.by_name": "register_activations",
    ".models.kanify": "KanifyConfig kanify",
    ".models.transfer": "transfer_functions",
    ".nn": "Coefficients GRKANLinear GRKANMlp GatedGRKANMlp GroupRational",
    ".nn.optimizer_groups": "param_groups split_parameters",
    ".ops": "gated_rational rational",
}
if TYPE_CHECKING:
    from kat import analysis as analysis
    from kat import data as data
    from kat import deploy as deploy
    from kat import models as models
    from kat import training as training
    from kat.api import TrainedModel, calibrate, evaluate, load, train
    from kat.models.adapt import adapt
    from kat.models.by_name import register_activations
    from kat.models.kanify import KanifyConfig, kanify
    from kat.models.transfer import transfer_functions
    from kat.nn import Coefficients, GatedGRKANMlp, GRKANLinear, GRKANMlp, GroupRational
    from kat.nn.optimizer_groups import param_groups, split_parameters
    from kat.ops import gated_rational, rational
else:
    __getattr__, __dir__ = on_first_use(__name__, "train", _NAMES)

__all__ = [
    "Coefficients", "GRKANLinear", "GRKANMlp", "GatedGRKANMlp", "GroupRational", "KanifyConfig",
    "TrainedModel", "__version__", "adapt", "calibrate", "evaluate", "gated_rational", "kanify",
    "load", "models", "param_groups", "rational", "register_activations", "split_parameters",
    "train", "transfer_functions",
]  # fmt: skip


def _import_layers() -> None:
    """Import torch and the layers, except in the command, whose ``--help`` needs neither."""
    if "kat_command" not in sys.modules:
        importlib.import_module("kat.nn")


_import_layers()
import_with("kat.models", "timm")
import_with("kat.ops.flops", "torch.utils.flop_counter")
