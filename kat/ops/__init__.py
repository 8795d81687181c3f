"""The rational base function: one public call, a plain reference, and the backends behind it."""

from kat.ops.rational import FORMS, in_function_transform, rational

__all__ = ["FORMS", "in_function_transform", "rational"]
