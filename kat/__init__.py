"""Kolmogorov-Arnold Transformer (KAT): rational activations, GR-KAN layers and KAT models."""

from kat.ops import rational
from kat.version import __version__

__all__ = ["__version__", "rational"]
