"""GR-KAN MLPs in place of the MLPs of a trained model, whose function they keep."""

from kat.models.kanify.api import kanify, kanify_like
from kat.models.kanify.plan import Plan, Replacement

__all__ = ["Plan", "Replacement", "kanify", "kanify_like"]
