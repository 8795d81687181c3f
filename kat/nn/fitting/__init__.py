"""Fits the coefficients of a rational to a function or to points.

``import kat`` does not import this package, which needs SciPy.
"""

from kat.nn.fitting.fitter import Fit, evaluate, fit, twice
from kat.nn.fitting.targets import FUNCTIONS, Points, parse_expression, read_points, resolve

__all__ = [
    "FUNCTIONS",
    "Fit",
    "Points",
    "evaluate",
    "fit",
    "parse_expression",
    "read_points",
    "resolve",
    "twice",
]
