"""GR-KAN layers, their initialization and monitoring, and the B-spline KAN layer."""

from kat.nn.bspline import BSplineKANLinear, BSplineKANMlp
from kat.nn.coefficient_history import (
    LayerHistory,
    read_coefficient_history,
    write_coefficient_history,
)
from kat.nn.coefficients import Coefficients, Init
from kat.nn.gated import GatedGRKANMlp
from kat.nn.grkan import GRKANLinear, GRKANMlp, Keep
from kat.nn.hooks import register_grkan_hook
from kat.nn.init import Scheme, init_attention_mimetic_, init_grkan_
from kat.nn.optimizer_groups import param_groups, split_parameters
from kat.nn.presets import given_coefficients, preset, preset_names, read_coefficients
from kat.nn.quadrature import expectation, gain
from kat.nn.rational import (
    GroupRational,
    Share,
    group_functions,
    keep_even,
    rational_parameter_names,
    rationals,
)
from kat.nn.stability import StabilityMonitor

__all__ = [
    "BSplineKANLinear",
    "BSplineKANMlp",
    "Coefficients",
    "GRKANLinear",
    "GRKANMlp",
    "GatedGRKANMlp",
    "GroupRational",
    "Init",
    "Keep",
    "LayerHistory",
    "Scheme",
    "Share",
    "StabilityMonitor",
    "expectation",
    "gain",
    "given_coefficients",
    "group_functions",
    "init_attention_mimetic_",
    "init_grkan_",
    "keep_even",
    "param_groups",
    "preset",
    "preset_names",
    "rational_parameter_names",
    "rationals",
    "read_coefficient_history",
    "read_coefficients",
    "register_grkan_hook",
    "split_parameters",
    "write_coefficient_history",
]
