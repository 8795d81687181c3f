"""The B-spline KAN layer of Liu et al., a baseline for GR-KAN."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.errors import check_choice, check_count
from kat.nn.quadrature import expectation, gain
from kat.ops.torch_internals import has_values, refuse_scripting

KAN_SCHEMES = ("liu", "variance_preserving")


class BSplineKANLinear(nn.Module):
    """y_j = sum_i [ w_ji SiLU(x_i) + sum_k c_jik B_k(x_i) ] + bias_j, one function for each edge.

    B_k, k = 0 .. grid + order - 1, are the B-splines of degree ``order`` on uniform knots: ``grid``
    intervals over ``grid_range``, and ``order`` more on either side. Beyond those the splines are
    zero, and SiLU remains. Liu et al. also scale each edge's spline; here c includes the scale.

    At most order + 1 splines are nonzero at x. Only those are computed, and scattered into their
    columns for one large matrix product with c.

    Args:
        in_features: d_in.
        out_features: d_out.
        bias: True to add a bias.
        grid: number of grid intervals; at least 1.
        order: degree of the splines; at least 1.
        grid_range: (low, high), the ends of the grid.
        weight_init: ``"liu"``, as in the paper: c ~ N(0, (0.1 / grid)^2), w ~ N(0, 1 / d_in), so
            that the splines start small (the authors' code interpolates uniform noise instead); or
            ``"variance_preserving"``: each part contributes half of Var[y] = 1 for x ~ N(0, 1).
        device, dtype: of the parameters.

    Shape:
        x (..., d_in) to (..., d_out).

    Weights:
        base_weight (d_out, d_in), spline_weight (d_out, d_in, grid + order), bias (d_out,).

    Raises:
        ValueError: an unknown ``weight_init``.

    Source: Liu et al., KAN: Kolmogorov-Arnold Networks, arXiv 2404.19756, section 2.

    Examples:
        >>> import torch
        >>> from kat.nn import BSplineKANLinear
        >>> layer = BSplineKANLinear(16, 4)
        >>> layer(torch.randn(8, 16)).shape, layer.spline_weight.shape
        (torch.Size([8, 4]), torch.Size([4, 16, 8]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        grid: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        weight_init: str = "liu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("weight_init", weight_init, KAN_SCHEMES)
        self.in_features, self.out_features = in_features, out_features
        self.grid, self.order = check_count("grid", grid), check_count("order", order)
        self.grid_range = grid_range
        self.weight_init = weight_init
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features, **options))
        self.spline_weight = nn.Parameter(
            torch.empty(out_features, in_features, grid + order, **options)
        )
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw the weights again; timm's models call this after their own initialization."""
        if not has_values(self.base_weight):
            return
        if self.weight_init == "variance_preserving":
            base = math.sqrt(gain(functional.silu) / 2)
            moment = expectation(lambda x: self.splines(x).square().sum(-1)).item()
            spline = math.sqrt(0.5 / (self.in_features * moment))
        else:
            base, spline = 1.0, 0.1 / self.grid
        nn.init.normal_(self.base_weight, std=base / math.sqrt(self.in_features))
        nn.init.normal_(self.spline_weight, std=spline)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def splines(self, x: Tensor) -> Tensor:
        """B_k(x): x (...) to (..., grid + order)."""
        low, high = self.grid_range
        return _Splines.apply((x - low) * (self.grid / (high - low)), self.grid, self.order)

    def forward(self, x: Tensor) -> Tensor:
        """y as above."""
        base = functional.linear(functional.silu(x), self.base_weight, self.bias)
        return base + functional.linear(self.splines(x).flatten(-2), self.spline_weight.flatten(1))

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Return the arguments, for ``print(module)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features},"
            f" bias={self.bias is not None}, grid={self.grid}, order={self.order},"
            f" grid_range={self.grid_range}"
        )


class BSplineKANMlp(nn.Module):
    """KAN_2(KAN_1(x)): two B-spline KAN layers in place of a transformer's MLP.

    It has the signature of timm's ``Mlp`` and serves as ``mlp_layer=`` of timm's models.

    Args:
        in_features: width of the input.
        hidden_features: width between the layers; in_features by default.
        out_features: width of the output; in_features by default.
        act_layer: unused, for timm's signature; the activations are the splines.
        norm_layer: an optional norm between the layers.
        bias: whether the layers have biases.
        drop: dropout rate between the layers.
        device, dtype: of the parameters.
        **spline: grid, order, grid_range, weight_init of :class:`BSplineKANLinear`.

    Examples:
        >>> import torch
        >>> from kat.nn import BSplineKANMlp
        >>> BSplineKANMlp(16, 64)(torch.randn(8, 16)).shape
        torch.Size([8, 16])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Any = None,
        norm_layer: Any = None,
        bias: bool = True,
        drop: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **spline: Any,
    ) -> None:
        super().__init__()
        hidden, out = hidden_features or in_features, out_features or in_features
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = BSplineKANLinear(in_features, hidden, bias, **spline, **options)
        self.drop = nn.Dropout(drop)
        self.norm = norm_layer(hidden, **options) if norm_layer else nn.Identity()
        self.fc2 = BSplineKANLinear(hidden, out, bias, **spline, **options)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        return self.fc2(self.norm(self.drop(self.fc1(x))))


@cache
def _pieces(order: int) -> list[list[float]]:
    """Return the splines of an order on one grid interval, as coefficients of polynomials in u.

    With N the cardinal spline on the knots 0 .. K + 1, K = order, entry [p][r] is the coefficient
    of u^p in N(K - r + u), which is B_(i + r) at t = i + u. Truncated powers give them:
    N(s) = sum_j (-1)^j C(K + 1, j) max(s - j, 0)^K / K!.
    """
    rows = []
    for p in range(order + 1):
        factor = math.comb(order, p)
        row = []
        for knot in range(order, -1, -1):
            total = 0
            for j in range(knot + 1):
                total += (-1) ** j * math.comb(order + 1, j) * (knot - j) ** (order - p)
            row.append(factor * total / math.factorial(order))
        rows.append(row)
    return rows


class _Splines(torch.autograd.Function):
    """B_k at t, x in grid intervals from the low end of the grid: (...) to (..., grid + order).

    Saves only t. The gradient can be differentiated as often as the splines can.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, grid: int, order: int) -> Tensor:
        ctx.save_for_backward(t)
        ctx.grid, ctx.order = grid, order
        cell = t.floor()
        u = (t - cell).unsqueeze(-1)
        *lower, values = torch.tensor(_pieces(order), dtype=t.dtype, device=t.device)
        values = values.expand(*t.shape, order + 1)
        for coefficients in reversed(lower):
            values = torch.addcmul(coefficients, values, u)
        index = cell.unsqueeze(-1) + torch.arange(order + 1, dtype=t.dtype, device=t.device)
        outside = (index < 0) | (index >= grid + order)  # False for NaN, which propagates
        index = index.nan_to_num(0.0).clamp(0, grid + order - 1).long()
        splines = t.new_zeros(*t.shape, grid + order)
        return splines.scatter_add_(-1, index, values.masked_fill(outside, 0.0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        """dB_k / dt = B'_(k-1) - B'_k, with the splines B' of the next lower order."""
        if ctx.order == 0:
            return None, None, None
        (t,) = ctx.saved_tensors
        lower = _Splines.apply(t + 1, ctx.grid + 2, ctx.order - 1)  # from k = -1 on
        return (grad * -lower.diff(dim=-1)).sum(-1), None, None
