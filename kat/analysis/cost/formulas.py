"""Costs from shapes alone: the formulas of the paper, and those of each kind of module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from timm.layers import Attention
from torch import Tensor, nn

from kat.models.dense.attention import GridAttention
from kat.nn import BSplineKANLinear, GatedGRKANMlp, GroupRational
from kat.nn.execution.layer import plain_coefficients

ACTIVATION_FLOPS = {"relu": 1, "silu": 5, "gelu": 14}
"""FLOPs of a fixed activation per element, as comparisons of KAN and MLP count them.

Source: the code of Yu, Yu and Wang, KAN or MLP: A Fairer Comparison, arXiv 2407.16674.
"""


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def rational_flops(elements: int, degree: tuple[int, int]) -> int:
    """2m + 2n + 3 per element: two Horner chains, an absolute value, an addition, a division.

    Source: arXiv 2409.10594, section 4.3.
    """
    m, n = degree
    return elements * (2 * m + 2 * n + 3)


@dataclass(frozen=True)
class LayerFormula:
    """The cost of a layer for one token, by a formula of the paper's table of layers.

    Args:
        parameters: trainable numbers.
        flops: floating-point operations, two for each multiply-add.
    """

    parameters: int
    flops: int


def mlp_layer(d_in: int, d_out: int, activation: str = "gelu") -> LayerFormula:
    """A linear map and a fixed activation: 2 d_in d_out + act d_out FLOPs.

    Parameters: d_in d_out + d_out.

    Args:
        d_in, d_out: widths.
        activation: one of :data:`ACTIVATION_FLOPS`, which is act.

    Source: arXiv 2409.10594, the table that compares layers.
    """
    products = d_in * d_out
    return LayerFormula(products + d_out, 2 * products + ACTIVATION_FLOPS[activation] * d_out)


def grkan_layer(
    d_in: int, d_out: int, degree: tuple[int, int] = (5, 4), groups: int = 8
) -> LayerFormula:
    """A rational for each group and a linear map: (2m + 2n + 3) d_in + 2 d_in d_out FLOPs.

    Parameters: d_in d_out + d_out + (m + n g). The paper counts m coefficients of the numerator; a
    polynomial of degree m, and :class:`kat.GRKANLinear`, has m + 1.

    Args:
        d_in, d_out: widths.
        degree: (m, n).
        groups: g.

    Source: arXiv 2409.10594, section 4.3.
    """
    m, n = degree
    products = d_in * d_out
    flops = rational_flops(d_in, degree) + 2 * products
    return LayerFormula(products + d_out + m + n * groups, flops)


def kan_layer(
    d_in: int, d_out: int, grid: int = 5, order: int = 3, activation: str = "silu"
) -> LayerFormula:
    """A B-spline on every edge: act d_in + d_in d_out (9K (G + 1.5K) + 2G - 2.5K + 3) FLOPs.

    Parameters: d_in d_out (G + K + 3) + d_out. De Boor's recursion evaluates all basis functions;
    an implementation that evaluates only those that are not zero needs fewer FLOPs.

    Args:
        d_in, d_out: widths.
        grid: G, intervals of the grid.
        order: K, the degree of the splines.
        activation: act, the base branch's activation, a key of :data:`ACTIVATION_FLOPS`.

    Source: arXiv 2407.16674, section 4, which arXiv 2409.10594 uses.
    """
    edges = d_in * d_out
    halves = 18 * order * grid + 27 * order**2 + 4 * grid - 5 * order + 6
    flops = ACTIVATION_FLOPS[activation] * d_in + edges * halves // 2
    return LayerFormula(edges * (grid + order + 3) + d_out, flops)


@dataclass(frozen=True)
class Terms:
    """The operations of one forward pass, by kind.

    Args:
        weights: multiply-adds of products with weights (linear maps, convolutions).
        attention: multiply-adds of the two products of attention, Q K^T and A V, and of its
            relative positions.
        rational: FLOPs of rationals, 2m + 2n + 3 per element.
        norm: FLOPs of layer norms, 5 per element (mean, variance, normalization, scale, shift).
    """

    weights: int = 0
    attention: int = 0
    rational: int = 0
    norm: int = 0

    def __add__(self, other: Terms) -> Terms:
        return Terms(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Terms)))

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of all matrix products."""
        return self.weights + self.attention

    @property
    def flops(self) -> int:
        """Two for each multiply-add of a matrix product, plus those of rationals."""
        return 2 * self.multiply_adds + self.rational

    @property
    def paper(self) -> int:
        """The count of the paper's table of models, which was made with fvcore.

        One for each multiply-add of a product with weights, plus those of layer norms and
        rationals. The two products of attention are left out: fvcore does not know the fused
        kernel.
        """
        return self.weights + self.rational + self.norm


def formula_of(module: nn.Module) -> Callable[[Any, Tensor, Tensor], Terms] | None:
    """The formula for a module's own operations, or None where its kind has none.

    Returns:
        A function of the module, its input and its output, which uses only their shapes.
    """
    return next((_FORMULAS[kind] for kind in type(module).__mro__ if kind in _FORMULAS), None)


def _linear(layer: nn.Linear, x: Tensor, y: Tensor) -> Terms:
    return Terms(weights=y.numel() * layer.in_features)


def _convolution(layer: Convolution, x: Tensor, y: Tensor) -> Terms:
    return Terms(weights=y.numel() * layer.weight[0].numel())


def _transposed_convolution(layer: TransposedConvolution, x: Tensor, y: Tensor) -> Terms:
    return Terms(weights=x.numel() * layer.weight[0].numel())


def _rational(layer: GroupRational, x: Tensor, y: Tensor) -> Terms:
    return Terms(rational=rational_flops(x.numel(), layer.degree))


def _gate(layer: GatedGRKANMlp, x: Tensor, y: Tensor) -> Terms:
    """The rational in the gate, unless it runs as a module of its own."""
    if plain_coefficients(layer.act) is None:
        return Terms()
    elements = y.numel() // layer.fc2.out_features * layer.fc2.in_features
    return Terms(rational=rational_flops(elements, layer.act.degree))


def _splines(layer: BSplineKANLinear, x: Tensor, y: Tensor) -> Terms:
    return Terms(weights=y.numel() * layer.in_features * (layer.grid + layer.order + 1))


def _layer_norm(layer: nn.LayerNorm, x: Tensor, y: Tensor) -> Terms:
    return Terms(norm=x.numel() * (5 if layer.elementwise_affine else 4))


def _attention(layer: Attention, x: Tensor, y: Tensor) -> Terms:
    batch, tokens, _ = x.shape
    return Terms(attention=2 * batch * tokens**2 * layer.num_heads * layer.head_dim)


def _grid_attention(layer: GridAttention, x: Tensor, y: Tensor) -> Terms:
    """Relative positions lengthen queries and keys by one number per row and column of a window."""
    batch, height, width, channels = x.shape
    rows, columns = layer.window_size(height, width)
    tokens = rows * columns
    windows = batch * -(-height // rows) * -(-width // columns)
    products = 2 * tokens * channels
    if layer.has_positions:
        heads = channels // layer.rel_pos_h.shape[1]
        products += (rows + columns) * (channels + heads * tokens)
    return Terms(attention=windows * tokens * products)


_FORMULAS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Terms]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_convolution
    ),
    GroupRational: _rational,
    GatedGRKANMlp: _gate,
    BSplineKANLinear: _splines,
    nn.LayerNorm: _layer_norm,
    Attention: _attention,
    GridAttention: _grid_attention,
}
