"""The rational function: one public call, a plain PyTorch reference, and a folder a backend."""

from kat.ops.api import decompositions, gated_rational, rational, warmup
from kat.ops.arguments import FORMS, Form, Impl

__all__ = [
    "FORMS",
    "Form",
    "Impl",
    "decompositions",
    "gated_rational",
    "rational",
    "warmup",
]
