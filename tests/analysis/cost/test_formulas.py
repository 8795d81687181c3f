"""The formulas of the paper's table of layers, against arithmetic by hand and counting."""

from __future__ import annotations

from fractions import Fraction

import pytest

import kat
from kat.analysis import count
from kat.analysis.cost.formulas import grkan_layer, kan_layer, mlp_layer
from kat.analysis.cost.layer_comparison import compare_layers
from kat.errors import InputError


def test_mlp():
    layer = mlp_layer(192, 768)
    assert (layer.parameters, layer.flops) == (148_224, 294_912 + 14 * 768)
    assert mlp_layer(10, 20, "relu").flops == 400 + 20


@pytest.mark.parametrize(("degree", "groups"), [((5, 4), 8), ((3, 2), 1), ((7, 6), 16)])
def test_grkan_has_the_counted_flops_and_one_parameter_less(degree, groups):
    formula = grkan_layer(64, 48, degree, groups)
    layer = kat.GRKANLinear(64, 48, num_groups=groups, degree=degree, init="identity")
    assert formula.flops == count(layer, (64,)).flops
    assert formula.parameters == sum(p.numel() for p in layer.parameters()) - 1


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("grid", [1, 3, 5, 20])
def test_kan(grid, order):
    edge = (
        9 * order * (grid + Fraction(3, 2) * order) + 2 * grid - Fraction(5, 2) * order + 3
    )  # the formula as it is printed
    layer = kan_layer(7, 11, grid, order)
    assert layer.flops == 5 * 7 + 7 * 11 * edge
    assert layer.parameters == 7 * 11 * (grid + order + 3) + 11


def test_the_compared_layers_keep_what_they_need():
    """An MLP layer its input and GELU's, a fused GR-KAN layer its input, a KAN layer its input,
    SiLU of it, where it lies on the grid, and its 8 splines; 4 bytes each.
    """
    mlp, grkan, kan = compare_layers(192, 768)
    assert (mlp.activation_bytes, grkan.activation_bytes) == (4 * (192 + 768), 4 * 192)
    assert mlp.formula.flops - mlp.cost.flops == 14 * 768
    assert grkan.formula.flops == grkan.cost.flops == 21 * 192 + 2 * 192 * 768
    assert grkan.cost.parameters == grkan.formula.parameters + 1
    assert kan.activation_bytes == 4 * 192 * (1 + 1 + 1 + 8)
    assert kan.cost.flops == 2 * 192 * 768 * (1 + 8)
    assert kan.formula.parameters - kan.cost.parameters == 2 * 192 * 768
    assert kan.formula.flops == 5 * 192 + 192 * 768 * 262


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ((0, 8), {}, "D_IN must be at least 1, got 0"),
        ((8, 8), {"grid": 0}, "grid must be at least 1, got 0"),
        ((12, 8), {}, "in_features=12 is not divisible by num_groups=8"),
        ((8, 8), {"degree": (0, 4)}, "degree must be"),
    ],
)
def test_widths_that_make_no_layer_are_refused(widths, options, message):
    with pytest.raises(InputError, match=message):
        compare_layers(*widths, **options)
