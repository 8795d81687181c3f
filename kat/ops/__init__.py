"""The rational base function: one public call, a plain reference, and the backends behind it."""

from kat.ops.context import in_function_transform
from kat.ops.rational import FORMS, rational

__all__ = ["FORMS", "in_function_transform", "rational"]
