"""The rational base function: one public call, a plain reference, and the backends behind it."""

from kat.ops.rational import FORMS, rational
from kat.ops.registration import gradients
from kat.ops.transforms import in_function_transform

__all__ = ["FORMS", "gradients", "in_function_transform", "rational"]
