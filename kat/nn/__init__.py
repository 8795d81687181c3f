"""GR-KAN layers, their coefficients, and their initialisation."""

from kat.nn.baselines import FixedMlp, SwiGLUMlp
from kat.nn.bspline import BSplineKANLinear, BSplineKANMlp
from kat.nn.coefficients import (
    Coefficients,
    Init,
    expectation,
    gain,
    given_coefficients,
    preset,
    preset_names,
    read_coefficients,
)
from kat.nn.fused import register_grkan_hook
from kat.nn.grkan import GRKANLinear, GRKANMlp
from kat.nn.init import init_attention_mimetic_, init_grkan_
from kat.nn.rational import GroupRational, group_functions

__all__ = [
    "BSplineKANLinear",
    "BSplineKANMlp",
    "Coefficients",
    "FixedMlp",
    "GRKANLinear",
    "GRKANMlp",
    "GroupRational",
    "Init",
    "SwiGLUMlp",
    "expectation",
    "gain",
    "given_coefficients",
    "group_functions",
    "init_attention_mimetic_",
    "init_grkan_",
    "preset",
    "preset_names",
    "read_coefficients",
    "register_grkan_hook",
]
