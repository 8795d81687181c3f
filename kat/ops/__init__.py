"""The rational base function: one public call, a plain reference, and the backends behind it."""

from kat.ops.context import in_function_transform, leaves_pytorch
from kat.ops.rational import FORMS, rational
from kat.ops.registration import gradients

__all__ = ["FORMS", "gradients", "in_function_transform", "leaves_pytorch", "rational"]
