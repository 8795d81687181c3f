"""The rational function: one public call, a plain PyTorch reference, and a folder a backend."""

from kat.ops.api import decompositions, rational
from kat.ops.arguments import FORMS, Form, Impl
from kat.ops.gated import gated_rational

__all__ = [
    "FORMS",
    "Form",
    "Impl",
    "decompositions",
    "gated_rational",
    "rational",
]
