"""GR-KAN layers, their coefficients, and their initialisation."""

from kat.nn.coefficients import (
    Coefficients,
    expectation,
    gain,
    preset,
    preset_names,
)
from kat.nn.fused import register_grkan_hook
from kat.nn.grkan import GRKANLinear, GRKANMlp
from kat.nn.init import init_attention_mimetic_, init_grkan_
from kat.nn.rational import GroupRational

__all__ = [
    "Coefficients",
    "GRKANLinear",
    "GRKANMlp",
    "GroupRational",
    "expectation",
    "gain",
    "init_attention_mimetic_",
    "init_grkan_",
    "preset",
    "preset_names",
    "register_grkan_hook",
]
