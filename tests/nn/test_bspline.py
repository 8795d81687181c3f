"""The B-spline KAN layer against SciPy's B-splines, and its initialization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional

from kat.nn import BSplineKANLinear, BSplineKANMlp


def _knots(layer: BSplineKANLinear) -> np.ndarray:
    low, high = layer.grid_range
    step = (high - low) / layer.grid
    return low + step * np.arange(-layer.order, layer.grid + layer.order + 1)


def _scipy_splines(layer: BSplineKANLinear, x: np.ndarray) -> np.ndarray:
    """B_k(x) by SciPy, zero outside the support of each."""
    knots = _knots(layer)
    columns = []
    for k in range(layer.grid + layer.order):
        support = knots[k : k + layer.order + 2]
        values = BSpline.basis_element(support, extrapolate=False)(x)
        columns.append(np.nan_to_num(values))
    return np.stack(columns, -1)


@pytest.mark.parametrize(
    ("order", "grid", "grid_range"),
    [(1, 5, (-3.0, 3.0)), (2, 7, (0.0, 2.0)), (3, 5, (-3.0, 3.0)), (5, 1, (-1.0, 1.0))],
)
def test_splines_are_scipys(order, grid, grid_range):
    layer = BSplineKANLinear(2, 3, grid=grid, order=order, grid_range=grid_range)
    x = np.random.default_rng(0).uniform(-20, 20, 4000)
    x[:2000] /= 5
    ours = layer.splines(torch.from_numpy(x)).numpy()
    assert np.abs(ours - _scipy_splines(layer, x)).max() < 1e-12
    inside = (x > grid_range[0]) & (x < grid_range[1])
    assert np.abs(ours[inside].sum(-1) - 1).max() < 1e-12


def test_the_layer_is_its_formula_edge_by_edge():
    layer = BSplineKANLinear(3, 2, dtype=torch.float64, weight_init="variance_preserving")
    torch.nn.init.normal_(layer.bias)
    x = 2 * torch.randn(5, 4, 3, dtype=torch.float64)
    y = layer(x).detach().numpy()
    splines = _scipy_splines(layer, x.numpy())
    c, w, bias = (p.detach().numpy() for p in (layer.spline_weight, layer.base_weight, layer.bias))
    silu = functional.silu(x).numpy()
    for j in range(2):
        edges = sum(w[j, i] * silu[..., i] + splines[..., i, :] @ c[j, i] for i in range(3))
        assert np.abs(y[..., j] - edges - bias[j]).max() < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3])
def test_gradients(order):
    layer = BSplineKANLinear(3, 2, order=order, dtype=torch.float64)
    x = 2 * torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())

    def function(x, *_):
        return layer(x)

    assert torch.autograd.gradcheck(function, (x, *parameters))
    if order > 2:
        assert torch.autograd.gradgradcheck(function, (x, *parameters))


def test_splines_end_beyond_the_grid_and_nan_goes_on():
    layer = BSplineKANLinear(1, 1)
    splines = layer.splines(torch.tensor([torch.inf, -torch.inf, 1e30, -1e30, torch.nan]))
    assert not splines[:4].any()
    assert splines[4].isnan().any()


def test_variance_preserving_weights_preserve_the_variance_where_lius_do_not():
    torch.manual_seed(0)
    x = torch.randn(4096, 256)
    moments = {}
    for scheme in ("liu", "variance_preserving"):
        y = BSplineKANLinear(256, 512, weight_init=scheme)(x)
        moments[scheme] = y.square().mean().item()
    assert moments["variance_preserving"] == pytest.approx(1, rel=0.05)
    # SiLU with N(0, 1 / d) alone gives 1 / 2.81; splines of standard deviation 0.02 little.
    assert moments["liu"] == pytest.approx(1 / 2.81, rel=0.2)


def test_the_mlp_takes_what_timms_takes():
    layer = BSplineKANMlp(8, 16, 4, drop=0.5, bias=False, norm_layer=torch.nn.LayerNorm)
    assert layer(torch.randn(2, 5, 8)).shape == (2, 5, 4)
    assert layer.fc1.bias is None
    count = sum(p.numel() for p in BSplineKANMlp(8, 16).parameters())
    assert count == 2 * 8 * 16 * (5 + 3 + 1) + 16 + 8


def test_an_invalid_argument_is_named():
    with pytest.raises(ValueError, match="grid must be an integer of at least 1"):
        BSplineKANLinear(4, 4, grid=0)
    with pytest.raises(ValueError, match="weight_init must be one of"):
        BSplineKANLinear(4, 4, weight_init="lui")
