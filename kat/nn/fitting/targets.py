"""Targets of a fit: a name or an expression, a function of arrays or of tensors, or points.

The text of an expression is parsed with ``ast`` and never run as Python: this module evaluates it
with torch in float64.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kat.errors import InputError, unknown
from kat.files import open_input
from kat.nn import functions
from kat.nn.coefficients import ALIASES
from kat.nn.quadrature import evaluable

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_OPERATORS: dict[type, Callable[..., Tensor]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_TWO_ARGUMENTS = {"max": torch.maximum, "min": torch.minimum}


def _on_arrays(function: functions.Function) -> Function:
    def on_array(x: Array) -> Array:
        points = torch.from_numpy(np.array(x, dtype=np.float64, order="C"))
        return np.asarray(function(points).detach().expand(points.shape).numpy(), dtype=np.float64)

    return on_array


FUNCTIONS: dict[str, Function] = {
    name: _on_arrays(function) for name, function in functions.FUNCTIONS.items()
}
"""Functions of :mod:`kat.nn.functions`, on float64 arrays."""


@dataclass(frozen=True)
class Points:
    """A function known at points only.

    Args:
        name: its name in messages.
        x: (k,), increasing.
        y: (k,), the values.
        weight: (k,), weights of the squared errors, such as frequencies, none negative; equal by
            default.

    Raises:
        InputError: a number is not finite, or x is not increasing.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import Points, fit
        >>> x = np.linspace(-2, 2, 50)
        >>> fit(Points("measured", x, np.tanh(x))).max_error < 1e-4
        True
    """

    name: str
    x: Array
    y: Array
    weight: Array | None = None

    def __post_init__(self) -> None:
        """Check the points."""
        if not (np.isfinite(self.x + self.y).all() and (np.diff(self.x) > 0).all()):
            raise InputError(
                f"the points of {self.name} must be finite, and x must increase: sort them by x,"
                " and keep one value, or the mean, of an x that has several"
            )

    def within(self, low: float, high: float) -> Points:
        """Return the points with low <= x <= high."""
        inside = (self.x >= low) & (self.x <= high)
        weight = None if self.weight is None else self.weight[inside]
        return Points(self.name, self.x[inside], self.y[inside], weight)


Target = str | Function | functions.Function | Points
"""A target of a fit: a name or an expression, a function of arrays or of tensors, or points."""


def read_points(path: str | Path) -> Points:
    r"""Read a CSV file with columns x and y, with or without a header, in any order of x.

    A repeated point counts once.

    Raises:
        InputError: the file is missing or has no point, a line is not one, or an x has two values.

    Examples:
        >>> from pathlib import Path
        >>> from kat.nn.fitting import read_points
        >>> _ = Path("points.csv").write_text("x,y\n0,0\n2,4\n1,1\n")
        >>> read_points(Path("points.csv")).x
        array([0., 1., 2.])
    """
    path, points = Path(path), set()
    with io.TextIOWrapper(open_input(path), encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                x, y = map(float, row)
                points.add((x, y))
            except ValueError:
                is_header = number == 1 and not any(map(str.isdigit, "".join(row)))
                if any(row) and not is_header:
                    raise InputError(
                        f"{path}, line {number}: {','.join(row)!r} is not a point: two numbers x,y"
                    ) from None
    if not points:
        raise InputError(f"{path} has no point: a line has two numbers x,y")
    x, y = np.array(sorted(points)).T
    return Points(path.name, x, y)


def parse_expression(text: str) -> Function:
    """Return the function of x that an expression defines.

    Args:
        text: may contain numbers, x, pi, e, + - * / ** and parentheses; the functions of
            :data:`FUNCTIONS`; functions of a number in ``torch.nn.functional`` and ``torch``, such
            as elu, exp or erf; max and min of two.

    Raises:
        InputError: the text contains anything else, or is not a function of a number.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import parse_expression
        >>> parse_expression("max(x, 0) ** 2")(np.array([-1.0, 3.0]))
        array([0., 9.])
    """
    two = np.array([0.5, 1.5])
    try:
        body = ast.parse(text.strip(), mode="eval").body
        function = _on_arrays(lambda x: _evaluate(body, x))
        values, first = function(two), function(two[:1])
    except (SyntaxError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{text!r} is not a function of x: {error}") from None
    if not np.allclose(values[:1], first, equal_nan=True):
        raise InputError(f"{text!r} at one x depends on other x")
    return function


def _evaluate(node: ast.AST, x: Tensor) -> Tensor:
    match node:
        case ast.Constant(value=int() | float() as value):
            return x.new_tensor(float(value))  # Python's integers grow without bound under **
        case ast.Name(id="x"):
            return x
        case ast.Name(id="pi" | "e" as name):
            return x.new_tensor(getattr(math, name))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(operand, x))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left, x), _evaluate(right, x))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            function = _function(name)
            return function(*(_evaluate(argument, x) for argument in arguments))
    raise InputError(
        f"{ast.unparse(node)!r} is not supported; an expression has numbers, x, pi, e, functions,"
        " + - * / and ** for powers"
    )


def _function(name: str) -> Callable[..., Any]:
    own = {**functions.FUNCTIONS, **_TWO_ARGUMENTS}
    name = ALIASES.get(name, name)
    found = own.get(name) or getattr(functional, name, None) or getattr(torch, name, None)
    if not callable(found):
        raise unknown("function", name, [*own, *ALIASES, *dir(functional), *dir(torch)])
    return found


def resolve(target: Target) -> tuple[str, Function | Points]:
    """Return the name of a target, and the function of arrays or the points that it denotes.

    Raises:
        InputError: a text that is neither a known function nor an expression.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import resolve
        >>> name, function = resolve("x ** 3")
        >>> name, function(np.array([2.0]))
        ('x ** 3', array([8.]))
    """
    if isinstance(target, Points):
        return target.name, target
    if callable(target):
        function: Any = target
        try:
            function(np.array([0.5, 1.5]))
        except (TypeError, AttributeError):  # it is a function of tensors
            function = _on_arrays(evaluable(function))
        return str(getattr(target, "__name__", type(target).__name__)), function
    name = ALIASES.get(target, target)
    if name in FUNCTIONS:
        return name, FUNCTIONS[name]
    is_name = name.isidentifier() and name not in ("x", "pi", "e")
    return name, parse_expression(f"{name}(x)" if is_name else name)
