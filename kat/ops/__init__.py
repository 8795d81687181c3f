"""The rational function: public calls, a plain PyTorch reference, and a folder for each backend."""

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
