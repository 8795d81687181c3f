"""Replacing the activations of a trained model by rationals that compute the same function."""

from kat.models.kanify.api import kanify, kanify_like
from kat.models.kanify.fit import KanifyConfig
from kat.models.kanify.plan import Plan, Replacement

__all__ = ["KanifyConfig", "Plan", "Replacement", "kanify", "kanify_like"]
