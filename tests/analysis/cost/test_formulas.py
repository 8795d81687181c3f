"""The formulas of the paper's table of layers, against arithmetic by hand and counting."""

from __future__ import annotations

from fractions import Fraction

import pytest

import kat
from kat.analysis import count
from kat.analysis.cost.tables import compare_layers, grkan_layer, kan_layer, mlp_layer


def test_mlp():
    assert mlp_layer(192, 768) == (148_224, 294_912 + 14 * 768)


@pytest.mark.parametrize(("degree", "groups"), [((5, 4), 8), ((3, 2), 1), ((7, 6), 16)])
def test_grkan_has_the_counted_flops_and_one_parameter_less(degree, groups):
    parameters, flops = grkan_layer(64, 48, degree, groups)
    layer = kat.GRKANLinear(64, 48, num_groups=groups, degree=degree, init="identity")
    assert flops == count(layer, (64,)).flops
    assert parameters == sum(p.numel() for p in layer.parameters()) - 1


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("grid", [1, 5, 20])
def test_kan(grid, order):
    # the formula as it is printed
    edge = 9 * order * (grid + Fraction(3, 2) * order) + 2 * grid - Fraction(5, 2) * order + 3
    parameters, flops = kan_layer(7, 11, grid, order)
    assert flops == 5 * 7 + 7 * 11 * edge
    assert parameters == 7 * 11 * (grid + order + 3) + 11


def test_the_compared_layers_keep_what_they_need():
    """An MLP layer its input and GELU's, a fused GR-KAN layer its input, a KAN layer its input,
    SiLU of it, where it lies on the grid, and its 8 splines; 4 bytes each.
    """
    mlp, grkan, kan = compare_layers(192, 768)
    assert mlp["activation_bytes"] == 4 * (192 + 768)
    assert grkan["activation_bytes"] == 4 * 192
    assert kan["activation_bytes"] == 4 * 192 * (1 + 1 + 1 + 8)
    assert mlp["flops_by_formula"] - mlp["flops"] == 14 * 768
    assert grkan["flops_by_formula"] == grkan["flops"] == 21 * 192 + 2 * 192 * 768
    assert grkan["parameters"] == grkan["parameters_by_formula"] + 1
    assert kan["flops"] == 2 * 192 * 768 * (1 + 8)
    assert kan["parameters_by_formula"] - kan["parameters"] == 2 * 192 * 768
    assert kan["flops_by_formula"] == 5 * 192 + 192 * 768 * 262
