"""Parameters and operations of a model, layer by layer: counted, and by formula."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from kat import ops  # noqa: F401  (registers the operator that is counted)
from kat.analysis.cost.detection import countable
from kat.analysis.cost.formulas import Terms, formula_of, rational_flops
from kat.analysis.cost.hooks import run_by_layer


@register_flop_formula(torch.ops.kat.rational)
def _count_rational(
    x: torch.Size, numerator: torch.Size, denominator: torch.Size, *_: Any, **__: Any
) -> int:
    return rational_flops(torch.Size(x).numel(), (numerator[1] - 1, denominator[1]))


@register_flop_formula(torch.ops.kat.gated_rational)
def _count_gated_rational(
    x: torch.Size, v: torch.Size, numerator: torch.Size, denominator: torch.Size, *_: Any, **__: Any
) -> int:
    """Those of the rational: the product with v is elementwise."""
    return _count_rational(x, numerator, denominator)


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer for one image, without the layers inside it.

    Args:
        name: within the model; empty for the model itself.
        kind: name of the class.
        input_shape, output_shape: for one image; None where the layer does not map a tensor to a
            tensor, or does not run.
        parameters: its own, without those shared with an earlier layer.
        multiply_adds: the multiply-adds of matrix products, counted.
        flops: counted: two for each multiply-add, 2m + 2n + 3 for each element of a rational.
        terms: the operations by formula, zero where this kind of layer has none.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    flops: int
    terms: Terms


@dataclass(frozen=True)
class Cost:
    """The cost of a model for one image.

    Args:
        layers: in the order of the model.

    Examples:
        >>> import kat
        >>> from kat.analysis import count
        >>> cost = count(kat.models.create_model("kat_micro"), (3, 32, 32))
        >>> cost.parameters, cost.multiply_adds
        (208378, 15139968)
    """

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters, frozen ones included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the matrix products in a forward pass, counted."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def flops(self) -> int:
        """The floating-point operations of a forward pass, counted.

        Two for each multiply-add of a matrix product, 2m + 2n + 3 for each element of a rational.
        As usual, other elementwise operations do not count.
        """
        return sum(layer.flops for layer in self.layers)

    @property
    def terms(self) -> Terms:
        """The operations by formula."""
        return sum((layer.terms for layer in self.layers), Terms())

    def unexplained(self) -> dict[str, int]:
        """FLOPs counted minus FLOPs by formula, by kind of layer, where they differ."""
        differences: Counter[str] = Counter()
        for layer in self.layers:
            differences[layer.kind] += layer.flops - layer.terms.flops
        return {kind: flops for kind, flops in differences.items() if flops}


def count(model: nn.Module, input_size: tuple[int, ...]) -> Cost:
    """Counts the operations of a forward pass over one image, on the meta device: none is computed.

    Args:
        model: takes (1, *input_size); for detectors, see
            :class:`kat.analysis.cost.detection.FixedBoxes`.
        input_size: (C, H, W) of an image; any shape, for other models.

    Raises:
        InputError: the model fails on such an input.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.analysis import count
        >>> cost = count(kat.GRKANLinear(64, 10), (64,))
        >>> cost.parameters, cost.flops
        (688, 2624)
    """
    ghost = deepcopy(countable(model)).to("meta").eval()
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    terms: dict[str, Terms] = defaultdict(Terms)

    def called(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        shapes[name] = tuple(x.shape[1:]), tuple(y.shape[1:])
        if formula := formula_of(module):
            terms[name] += formula(module, x, y)

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        image = torch.empty(1, *input_size, device="meta")
        counts = run_by_layer(ghost, image, lambda: _read(counter), called)
    parameters = _own_parameters(model)

    def cost(name: str, module: nn.Module) -> LayerCost:
        x, y = shapes.get(name, (None, None))
        counted = counts.get(name, Counter())
        return LayerCost(
            name=name,
            kind=type(module).__name__,
            input_shape=x,
            output_shape=y,
            parameters=parameters[name],
            multiply_adds=counted["multiply-adds"],
            flops=counted["flops"],
            terms=terms[name],
        )

    return Cost(tuple(cost(name, module) for name, module in model.named_modules()))


def _read(counter: FlopCounterMode) -> Counter[str]:
    """The counts so far; those of torch's own operators are matrix products."""
    counts = counter.get_flop_counts().get("Global", {})
    products = sum(flops for operator, flops in counts.items() if str(operator).startswith("aten."))
    return Counter({"multiply-adds": products // 2, "flops": sum(counts.values())})


def _own_parameters(model: nn.Module) -> Counter[str]:
    """By module, the parameters that no earlier module has."""
    owners = (name.rpartition(".")[0] for name, _ in model.named_parameters())
    sizes = (parameter.numel() for parameter in model.parameters())
    parameters: Counter[str] = Counter()
    for owner, size in zip(owners, sizes, strict=True):
        parameters[owner] += size
    return parameters
