"""Fits the coefficients of a rational to a function or to points.

``import kat`` does not import this package, which needs SciPy.
"""

from kat.nn.fitting.expression import parse_expression
from kat.nn.fitting.fitter import Fit, evaluate, fit, resolve, twice
from kat.nn.fitting.functions import FUNCTIONS
from kat.nn.fitting.preset_fits import PRESETS, fit_preset, fit_presets
from kat.nn.fitting.samples import Points, read_points

__all__ = [
    "FUNCTIONS",
    "PRESETS",
    "Fit",
    "Points",
    "evaluate",
    "fit",
    "fit_preset",
    "fit_presets",
    "parse_expression",
    "read_points",
    "resolve",
    "twice",
]
