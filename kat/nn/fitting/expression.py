"""Expressions in x, such as ``x * sigmoid(1.702 * x)``, as functions of an array.

The text is parsed with ``ast`` and never run as Python: only the nodes of a short list are allowed,
and this module evaluates them with NumPy in float64.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

import numpy as np
from scipy.special import erf, erfc

from kat.errors import InputError, unknown
from kat.nn.coefficients import ALIASES
from kat.nn.fitting.functions import FUNCTIONS, Array, Function

_LONGEST = 1000
_DEEPEST = 200
_CONSTANTS = {"pi": math.pi, "e": math.e}
_UNARY: dict[type, Callable] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_ONE_ARGUMENT: dict[str, Callable] = {
    **FUNCTIONS,
    **{alias: FUNCTIONS[name] for alias, name in ALIASES.items() if name in FUNCTIONS},
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "erf": erf,
    "erfc": erfc,
}
_TWO_ARGUMENTS: dict[str, Callable] = {"max": np.maximum, "min": np.minimum}
_CALLABLE = {**_ONE_ARGUMENT, **_TWO_ARGUMENTS}


def parse_expression(text: str) -> Function:
    """The function of x that an expression defines.

    Args:
        text: may contain numbers, x, pi, e, + - * / ** and parentheses; the named functions, abs,
            sign, sqrt, exp, expm1, log, log1p, sin, cos, tan, atan, sinh, cosh, erf and erfc of one
            argument; max and min of two.

    Raises:
        InputError: the text contains anything else; the message names it.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import parse_expression
        >>> parse_expression("max(x, 0) ** 2")(np.array([-1.0, 3.0]))
        array([0., 9.])
    """
    if len(text) > _LONGEST:
        raise InputError(f"an expression may have {_LONGEST} characters, this one has {len(text)}")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise InputError(f"{text!r} is not an expression in x: {reason}") from None
    _check(body, text.strip(), _DEEPEST)

    def function(x: Array) -> Array:
        with np.errstate(all="ignore"):
            value = _evaluate(body, x)
        return np.broadcast_to(np.asarray(value, dtype=np.float64), x.shape)

    return function


def _check(node: ast.AST, text: str, depth: int) -> None:
    """Raises an error for every node that :func:`_evaluate` does not support."""
    part = ast.get_source_segment(text, node) or type(node).__name__
    if depth == 0:
        raise InputError(f"{text!r} is nested more than {_DEEPEST} deep")
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name):
            _check_name(name, text)
            return
        case ast.BinOp(op=op) if type(op) in _BINARY:
            children = [node.left, node.right]
        case ast.BinOp(op=ast.BitXor()):
            raise InputError(f"'^' in {text!r} is not a power; use **")
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            children = [node.operand]
        case ast.Call(func=ast.Name(id=name)):
            _check_call(node, name, part, text)
            children = node.args
        case _:
            raise InputError(
                f"{part!r} in {text!r} is not supported; an expression has numbers, x, pi, e,"
                " + - * / ** and functions"
            )
    for child in children:
        _check(child, text, depth - 1)


def _check_name(name: str, text: str) -> None:
    if name in _CALLABLE:
        raise InputError(f"{name!r} in {text!r} needs an argument: {name}(x)")
    if name not in ("x", *_CONSTANTS):
        raise unknown(f"name in {text!r}:", name, [*FUNCTIONS, *_CALLABLE, *_CONSTANTS, "x"])


def _check_call(node: ast.Call, name: str, part: str, text: str) -> None:
    if name not in _CALLABLE:
        raise unknown(f"function in {text!r}:", name, _CALLABLE)
    wanted = 1 if name in _ONE_ARGUMENT else 2
    if len(node.args) != wanted or node.keywords:
        raise InputError(f"{part!r} in {text!r}: {name} takes {wanted} argument(s)")


def _evaluate(node: ast.AST, x: Array) -> Array:
    match node:
        # Python integers would grow without bound under **.
        case ast.Constant(value=int() | float() as value):
            return np.asarray(_as_float(value))
        case ast.Name(id="x"):
            return x
        case ast.Name(id=name):
            return np.asarray(_CONSTANTS[name])
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_evaluate(node.operand, x))
        case ast.BinOp():
            return _BINARY[type(node.op)](_evaluate(node.left, x), _evaluate(node.right, x))
        case ast.Call(func=ast.Name(id=name)):
            return _CALLABLE[name](*(_evaluate(argument, x) for argument in node.args))
    raise AssertionError(f"an unchecked node: {ast.dump(node)}")


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
