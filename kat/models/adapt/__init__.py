"""Adapters of a trained model: everything else stays frozen, and only they are saved."""

from kat.models.adapt.adapters import Adapters, Kind
from kat.models.adapt.api import adapt, adapters_of, load_adapters

__all__ = ["Adapters", "Kind", "adapt", "adapters_of", "load_adapters"]
