"""The rational base function: one public call, a plain reference, and the backends behind it."""

from kat.ops.api import FORMS, rational
from kat.ops.dispatch import gradients
from kat.ops.torch_internals import in_function_transform, leaves_pytorch

__all__ = ["FORMS", "gradients", "in_function_transform", "leaves_pytorch", "rational"]
