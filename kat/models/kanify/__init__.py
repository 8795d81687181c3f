"""Replacing the MLPs of a trained model by GR-KAN MLPs that compute the same function."""

from kat.models.kanify.api import kanify
from kat.models.kanify.config import KanifyConfig
from kat.models.kanify.plan import Plan, Replacement
from kat.models.kanify.record import kanify_like

__all__ = [
    "KanifyConfig",
    "Plan",
    "Replacement",
    "kanify",
    "kanify_like",
]
