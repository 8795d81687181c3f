"""Activations that code calls, such as ``F.relu(x).square()``, and the lines to write instead."""

from __future__ import annotations

from torch import fx
from torch.nn import functional

from kat.models.kanify.trace import LINE, PATH
from kat.models.kanify.walk import called

_FIRST = {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu",
    "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
}  # fmt: skip
_NEXT = {*_FIRST, "square", "pow"}


def called_functions(graph: fx.Graph) -> list[list[fx.Node]]:
    """Return the calls of activations in a module's own code, each with the calls on its result."""
    found: list[list[fx.Node]] = []
    for node in graph.nodes:
        is_call = node.op in ("call_function", "call_method") and not node.meta[PATH]
        chain = found[-1] if found and node.args[:1] == (found[-1][-1],) else None
        if is_call and chain and called(node) in _NEXT:
            chain.append(node)
        elif is_call and called(node) in _FIRST:
            found.append([node])
    return found


def lines_instead(chain: list[fx.Node], attribute: str, owner: str) -> str:
    """Return the two lines with which a module of the class ``owner`` holds the function."""
    code = "x"
    for node in chain:
        others = [repr(argument) for argument in node.args[1:]]
        for key, value in node.kwargs.items():
            if key not in ("input", "inplace"):
                others.append(f"{key}={value!r}")
        name = called(node)
        if node.op == "call_method" or not hasattr(functional, name):
            code = f"{code}.{name}({', '.join(others)})"
        else:
            code = f"F.{name}({', '.join([code, *others])})"
    function = f"F.{called(chain[0])}"
    value = function if code == f"{function}(x)" else f"lambda x: {code}"
    return (
        "code calls it, and kanify replaces modules and functions held as attributes; write\n"
        f"    self.{attribute} = {value}  # in __init__ of {owner}\n"
        f"    self.{attribute}(x)  # in place of {code} at {chain[-1].meta[LINE]};"
        " x stands for the argument there"
    )
