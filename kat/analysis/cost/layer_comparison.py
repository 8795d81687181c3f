"""MLP, GR-KAN and KAN layers of the same widths: by the paper's formulas, and counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kat.analysis.cost.activation_memory import activation_memory
from kat.analysis.cost.flops import Cost, count
from kat.analysis.cost.formulas import LayerFormula, grkan_layer, kan_layer, mlp_layer
from kat.errors import InputError
from kat.nn import BSplineKANLinear, GRKANLinear


@dataclass(frozen=True)
class ComparedLayer:
    """The cost of one layer for one token.

    Args:
        name: the name of the kind of layer.
        formula: its cost by the paper's formula.
        cost: the cost of our module, counted.
        activation_bytes: that the module keeps for the backward pass in float32.
        difference: why formula and count differ.
    """

    name: str
    formula: LayerFormula
    cost: Cost
    activation_bytes: int
    difference: str


def compare_layers(
    d_in: int,
    d_out: int,
    *,
    degree: tuple[int, int] = (5, 4),
    groups: int = 8,
    grid: int = 5,
    order: int = 3,
) -> list[ComparedLayer]:
    """Compares the layers of the paper's table for these widths.

    Args:
        d_in, d_out: widths.
        degree, groups: of the rationals of GR-KAN.
        grid, order: intervals and degree of the B-splines of KAN.

    Raises:
        InputError: a number is out of range, or the groups do not divide d_in.
    """
    sizes = {"D_IN": d_in, "D_OUT": d_out, "groups": groups, "grid": grid, "order": order}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    try:
        rational = GRKANLinear(d_in, d_out, num_groups=groups, degree=degree, init="identity")
    except ValueError as error:
        raise InputError(str(error)) from None
    m, n = degree
    rows = (
        (
            "MLP (GELU)",
            mlp_layer(d_in, d_out),
            nn.Sequential(nn.Linear(d_in, d_out), nn.GELU()),
            "GELU is not counted",
        ),
        (
            f"GR-KAN (m={m}, n={n}, g={groups})",
            grkan_layer(d_in, d_out, degree, groups),
            rational,
            "a_0 is not in the formula",
        ),
        (
            f"KAN (G={grid}, K={order})",
            kan_layer(d_in, d_out, grid, order),
            BSplineKANLinear(d_in, d_out, grid=grid, order=order),
            "ours evaluates splines once per input",
        ),
    )
    return [
        ComparedLayer(
            name,
            formula,
            count(layer, (d_in,)),
            activation_memory(layer, (d_in,), input_gradient=True).per_image,
            difference,
        )
        for name, formula, layer, difference in rows
    ]
