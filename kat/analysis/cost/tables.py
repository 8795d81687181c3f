"""Rows of costs: models beside the authors' figures, and layers by the paper's formulas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from kat.analysis.cost.activation_memory import ActivationMemory, activation_memory
from kat.analysis.cost.flops import Cost, count, countable
from kat.errors import InputError
from kat.models import create_model, input_args, load_model, registered_preprocessing
from kat.models.checkpoints.model_record import unseen_pixels
from kat.models.checkpoints.shipped import model_path
from kat.nn import BSplineKANLinear, GRKANLinear
from kat.ops.flops import rational_flops
from kat.text import dimensions, warn

Row = dict[str, object]

PUBLISHED = {
    "vit_tiny_patch16_224": ("5.7", "1.08"),
    "vit_small_patch16_224": ("22.1", "4.25"),
    "vit_base_patch16_224": ("86.6", "16.87"),
    "kat_tiny_patch16_224": ("5.7", "1.13"),
    "kat_small_patch16_224": ("22.1", "4.35"),
    "kat_base_patch16_224": ("86.6", "17.06"),
}
"""The authors' figures for models, as printed: parameters in millions, and what they call GFLOPs,
:attr:`kat.analysis.cost.flops.Terms.paper` in units of 10^9. Source: arXiv 2409.10594."""
_ACTIVATION_FLOPS = {"silu": 5, "gelu": 14}
"""FLOPs of a fixed activation per element, as comparisons of KAN and MLP count them.

Source: the code of Yu, Yu and Wang, KAN or MLP: A Fairer Comparison, arXiv 2407.16674.
"""


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model.

    Args:
        model: its name.
        input_size: (C, H, W).
        cost: parameters and operations.
        memory: for activations.
        published: the authors' figures, if they give any for exactly this model.
    """

    model: str
    input_size: tuple[int, ...]
    cost: Cost
    memory: ActivationMemory
    published: tuple[str, str] | None = None

    def rounded(self) -> tuple[str, str]:
        """Return parameters and the paper's count, to as many digits as the authors print."""
        return f"{self.cost.parameters / 1e6:.1f}", f"{self.cost.terms.paper / 1e9:.2f}"

    def row(self) -> Row:
        """Return all values, without the layers."""
        cost, (parameters, gflops) = self.cost, self.published or (None, None)
        return {
            "model": self.model,
            "input": dimensions(self.input_size),
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "flops": cost.flops,
            **asdict(cost.terms),
            "paper_count": cost.terms.paper,
            "authors_parameters_m": parameters,
            "authors_gflops": gflops,
            "agrees_with_authors": self.published and self.rounded() == self.published,
            "activation_bytes": self.memory.per_image,
            "activation_bytes_of_any_batch": self.memory.fixed,
        }

    def layer_rows(self) -> list[Row]:
        """Return one row for each layer with a cost."""
        rows: list[Row] = []
        for layer in self.cost.layers:
            costs = {
                "parameters": layer.parameters,
                "multiply_adds": layer.terms.multiply_adds,
                "flops": layer.terms.flops,
                "paper_count": layer.terms.paper,
                "activation_bytes": self.memory.layers.get(layer.name, 0),
            }
            identity = {
                "model": self.model,
                "layer": layer.name or "(model)",
                "kind": layer.kind,
                "input": layer.input_shape and dimensions(layer.input_shape),
                "output": layer.output_shape and dimensions(layer.output_shape),
            }
            if any(costs.values()):
                rows.append({**identity, **costs})
        return rows


def model_cost(name: str, args: dict[str, Any], image_size: int | None) -> ModelCost:
    """Count the cost of a model.

    Args:
        name: a name in timm's registry, or a path that :func:`kat.models.load_model` takes.
        args: further arguments of the constructor.
        image_size: side of the images; None: the model's own.

    Raises:
        InputError: there is no such model, or it refuses the arguments.
    """
    stored = model_path(name).exists()
    if stored and (args or image_size):
        raise InputError(f"--args and --image-size are for names: {name} is stored with its own")
    if stored:
        model, record = load_model(name)
        size = record.input_size
    else:
        channels, height, width = registered_preprocessing(name)["input_size"]
        size = (args.get("in_chans", channels), image_size or height, image_size or width)
        model = _build(name, {**input_args(name, size), **args})
        if unseen := unseen_pixels(model, size):
            warn(f"warning: {unseen}")
    published = None if stored or args or image_size else PUBLISHED.get(name)
    memory = activation_memory(countable(model), size)
    return ModelCost(name, size, count(model, size), memory, published)


def _build(name: str, args: dict[str, Any]) -> nn.Module:
    """Build a model, without drawing its weights if it can: costs do not depend on them."""
    try:
        return create_model(name, **{"weight_init": "skip", **args})
    except InputError:
        return create_model(name, **args)


def mlp_layer(d_in: int, d_out: int) -> tuple[int, int]:
    """Return parameters and FLOPs of a linear map and GELU for one token.

    d_in d_out + d_out, and 2 d_in d_out + 14 d_out.

    Source: arXiv 2409.10594, the table that compares layers.
    """
    products = d_in * d_out
    return products + d_out, 2 * products + _ACTIVATION_FLOPS["gelu"] * d_out


def grkan_layer(
    d_in: int, d_out: int, degree: tuple[int, int] = (5, 4), groups: int = 8
) -> tuple[int, int]:
    """Return parameters and FLOPs of rationals and a linear map, for one token.

    d_in d_out + d_out + (m + n g), and (2m + 2n + 3) d_in + 2 d_in d_out. The paper counts m
    coefficients of the numerator; a polynomial of degree m, and :class:`kat.GRKANLinear`, has
    m + 1.

    Source: arXiv 2409.10594, section 4.3.
    """
    m, n = degree
    products = d_in * d_out
    return products + d_out + m + n * groups, rational_flops(d_in, degree) + 2 * products


def kan_layer(d_in: int, d_out: int, grid: int = 5, order: int = 3) -> tuple[int, int]:
    """Return parameters and FLOPs of a B-spline on every edge, for one token.

    d_in d_out (G + K + 3) + d_out, and 5 d_in + d_in d_out (9K (G + 1.5K) + 2G - 2.5K + 3). De
    Boor's recursion evaluates all basis functions; an implementation that evaluates only those that
    are not zero needs fewer FLOPs.

    Source: arXiv 2407.16674, section 4, which arXiv 2409.10594 uses.
    """
    edges = d_in * d_out
    halves = 18 * order * grid + 27 * order**2 + 4 * grid - 5 * order + 6
    flops = _ACTIVATION_FLOPS["silu"] * d_in + edges * halves // 2
    return edges * (grid + order + 3) + d_out, flops


def compare_layers(
    d_in: int,
    d_out: int,
    *,
    degree: tuple[int, int] = (5, 4),
    groups: int = 8,
    grid: int = 5,
    order: int = 3,
) -> list[Row]:
    """Compare the layers of the paper's table for these widths, by its formulas and counted.

    Args:
        d_in, d_out: widths.
        degree, groups: of the rationals of GR-KAN.
        grid, order: intervals and degree of the B-splines of KAN.

    Raises:
        ValueError: the groups do not divide d_in.
    """
    m, n = degree
    mlp = nn.Sequential(nn.Linear(d_in, d_out), nn.GELU())
    grkan = GRKANLinear(d_in, d_out, num_groups=groups, degree=degree, init="identity")
    kan = BSplineKANLinear(d_in, d_out, grid=grid, order=order)
    layers = {
        "MLP (GELU)": (mlp, mlp_layer(d_in, d_out), "GELU is not counted"),
        f"GR-KAN (m={m}, n={n}, g={groups})": (
            grkan, grkan_layer(d_in, d_out, degree, groups), "a_0 is not in the formula",
        ),
        f"KAN (G={grid}, K={order})": (
            kan, kan_layer(d_in, d_out, grid, order), "ours evaluates splines once per input",
        ),
    }  # fmt: skip
    rows = []
    for name, (layer, (parameters, flops), difference) in layers.items():
        cost = count(layer, (d_in,))
        memory = activation_memory(layer, (d_in,), input_gradient=True)
        rows.append(
            {
                "layer": name,
                "parameters_by_formula": parameters,
                "parameters": cost.parameters,
                "flops_by_formula": flops,
                "flops": cost.flops,
                "activation_bytes": memory.per_image,
                "difference": difference,
            }
        )
    return rows
