"""Kolmogorov-Arnold Transformer (KAT): rational activations, GR-KAN layers and KAT models."""

from kat import models
from kat.models import KAT
from kat.models.kanify import kanify
from kat.nn import Coefficients, GRKANLinear, GRKANMlp, GroupRational, param_groups
from kat.ops import rational
from kat.version import __version__

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
