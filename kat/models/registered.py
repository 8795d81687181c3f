"""All models of this library, registered with timm when this module is imported."""

from kat.models import baselines, dense, kat, micro

__all__ = ["baselines", "dense", "kat", "micro"]
