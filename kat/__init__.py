"""Kolmogorov-Arnold Transformer (KAT): rational activations, GR-KAN layers and KAT models."""

import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING

from kat import models
from kat.errors import first_line
from kat.extras import PROJECT, on_first_use
from kat.models.adapt import adapt
from kat.models.kanify import KanifyConfig, kanify
from kat.nn import (
    Coefficients,
    GatedGRKANMlp,
    GRKANLinear,
    GRKANMlp,
    GroupRational,
    param_groups,
)
from kat.ops import gated_rational, rational
from kat.version import __version__

if TYPE_CHECKING:
    from kat import analysis as analysis
    from kat import data as data
    from kat import deploy as deploy
    from kat import training as training
    from kat.api import TrainedModel, evaluate, load, train
else:
    _NAMES = {".": "analysis data deploy training", ".api": "TrainedModel evaluate load train"}
    __getattr__, __dir__ = on_first_use(__name__, "train", _NAMES)

__all__ = [
    "Coefficients", "GRKANLinear", "GRKANMlp", "GatedGRKANMlp", "GroupRational", "KanifyConfig",
    "TrainedModel", "__version__", "adapt", "evaluate", "gated_rational", "kanify", "load",
    "models", "param_groups", "rational", "train",
]  # fmt: skip


def _register_models() -> None:
    """Registers the models with timm, where it is installed.

    A timm that is too old or broken is a warning: the rest of the library needs only torch.
    """
    if importlib.util.find_spec("timm") is None:
        return
    try:
        importlib.import_module("kat.models.registered")
    except Exception as error:  # a torchvision for another torch raises RuntimeError, for instance
        warnings.warn(
            f"kat's models are not registered with timm: {first_line(error)};"
            f' pip install "{PROJECT}[vision]" installs a timm that they work with',
            stacklevel=2,
        )


_register_models()
