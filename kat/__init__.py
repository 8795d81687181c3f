"""Kolmogorov-Arnold Transformer (KAT): rational activations, GR-KAN layers and KAT models."""

import importlib
import warnings
from typing import TYPE_CHECKING

from kat import models
from kat.errors import first_line
from kat.extras import on_first_use
from kat.models.kanify import kanify
from kat.nn import Coefficients, GRKANLinear, GRKANMlp, GroupRational, param_groups
from kat.ops import rational
from kat.version import __version__

if TYPE_CHECKING:
    from kat.models.kat import KAT
else:
    __getattr__ = on_first_use(__name__, "vision")

__all__ = [
    "KAT",
    "Coefficients",
    "GRKANLinear",
    "GRKANMlp",
    "GroupRational",
    "__version__",
    "kanify",
    "models",
    "param_groups",
    "rational",
]


def _register_models() -> None:
    """Registers the models with timm, where it is installed."""
    try:
        importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name == "timm":
            return
        _warn_of_timm(error)
    except Exception as error:  # a torchvision for another torch raises RuntimeError, for instance
        _warn_of_timm(error)
    else:
        importlib.import_module("kat.models.registered")


def _warn_of_timm(error: Exception) -> None:
    warnings.warn(
        f"timm cannot be imported, so kat's models are not registered with it: {first_line(error)}",
        stacklevel=2,
    )


_register_models()
