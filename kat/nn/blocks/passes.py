"""The forward and backward pass of layers, a block of rows at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kat.nn.blocks import sizes
from kat.ops.arguments import Rational
from kat.ops.cpu import backend as cpu


class Layer(NamedTuple):
    """The tensors of a GR-KAN layer W F(x) + bias; without F, W x + bias."""

    f: Rational | None
    weight: Tensor
    bias: Tensor | None

    @property
    def form(self) -> str:
        """The form of F."""
        return "A" if self.f is None else self.f.form

    @property
    def tensors(self) -> list[Tensor | None]:
        """The parameters."""
        coefficients = (None, None) if self.f is None else self.f[:2]
        return [*coefficients, self.weight, self.bias]


PARAMETERS = 4
"""The tensors of a layer."""


def parameters_of(layers: Sequence[Layer]) -> list[Tensor | None]:
    """Return the parameters of all layers, as autograd functions and operators take them."""
    parameters: list[Tensor | None] = []
    for layer in layers:
        parameters += layer.tensors
    return parameters


def layers_of(forms: Sequence[str], parameters: Sequence[Tensor | None]) -> list[Layer]:
    """Return the layers that have these forms and :func:`parameters_of` them."""
    layers = []
    for number, form in enumerate(forms):
        first = number * PARAMETERS
        numerator, denominator, weight, bias = parameters[first : first + PARAMETERS]
        assert weight is not None
        f = None
        if numerator is not None and denominator is not None:
            f = Rational(numerator, denominator, form)
        layers.append(Layer(f, weight, bias))
    return layers


def forward(
    x: Tensor,
    layers: Sequence[Layer],
    *,
    dtype: torch.dtype,
    v: Tensor | None = None,
    hidden: Sequence[Tensor] = (),
    whole: bool = False,
) -> Tensor:
    """Return the output of layers that may run in blocks.

    Args:
        x: (..., d_in).
        layers: the layers.
        dtype: of the products.
        v: of x's shape, the value of the gate of a single layer.
        hidden: where the outputs of all layers but the last one are stored, (rows, width) each;
            empty: nowhere.
        whole: make one block.
    """
    rows, values = _rows(x, v)
    output = x.new_empty(*x.shape[:-1], len(layers[-1].weight), dtype=dtype)
    places: list[Tensor | None] = [*hidden] if hidden else [None] * (len(layers) - 1)
    places.append(output.view(len(rows), output.shape[-1]))
    size, blocks = _block_layers(rows, layers, dtype=dtype, whole=whole)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        gate = _part(values, start, size)
        for layer, place in zip(blocks, places, strict=True):
            block = layer.forward(block, layer.output(place, start, len(block)), v=gate)
    return output  # no view: autograd would refuse to let it be changed in place


def backward(
    grad: Tensor,
    x: Tensor,
    layers: Sequence[Layer],
    *,
    needs: Sequence[bool],
    v: Tensor | None = None,
    hidden: Sequence[Tensor] = (),
    whole: bool = False,
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """Return the gradients of x, v and each layer's parameters; None where none is needed.

    Args:
        grad: of the output, in the dtype of the products.
        x, layers, v, whole: as in :func:`forward`.
        needs: for x (and v) and each parameter, True if it needs its gradient.
        hidden: what :func:`forward` has stored; empty: it is computed again.
    """
    rows, values = _rows(x, v)
    grad = grad.reshape(len(rows), grad.shape[-1])
    size, blocks = _block_layers(rows, layers, dtype=grad.dtype, whole=whole)
    for layer, first in zip(blocks, range(1, len(needs), PARAMETERS), strict=True):
        layer.needs = needs[first : first + PARAMETERS]
    lowest = 0 if needs[0] else (needs.index(True) - 1) // PARAMETERS
    dx = x.new_empty(rows.shape) if needs[0] else None
    dv = None if values is None else x.new_empty(values.shape)
    for start in range(0, len(rows), size):
        inputs = [rows[start : start + size]]
        count = len(inputs[0])
        for layer in blocks[:-1]:
            block = layer.output(hidden[layer.number] if hidden else None, start, count)
            inputs.append(block if hidden else layer.forward(inputs[-1], block))
        g = grad[start : start + count]
        gate, d_gate = _part(values, start, count), _part(dv, start, count)
        for layer in reversed(blocks[lowest:]):
            below = layer.d_input[:count] if layer.number > lowest else _part(dx, start, count)
            layer.backward(g, inputs[layer.number], below, gate, d_gate)
            g = g if below is None else below
    sums: list[Tensor | None] = []
    for layer in blocks:
        sums += layer.sums  # autograd casts them
    dx = None if dx is None else dx.view(x.shape)
    return dx, None if dv is None else dv.view(x.shape), sums


def _rows(x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x and v as rows. The rows of a gate's x and v may have a larger stride."""
    rows = x.reshape(-1, x.shape[-1])
    return (rows.contiguous(), None) if v is None else (rows, v.reshape(rows.shape))


def _part(tensor: Tensor | None, start: int, count: int) -> Tensor | None:
    return None if tensor is None else tensor[start : start + count]


class _BlockLayer:
    """One layer for a block of rows at a time: its space, and the sums of its gradients."""

    def __init__(
        self, number: int, layer: Layer, size: int, input_dtype: torch.dtype, dtype: torch.dtype
    ) -> None:
        self.number, self.layer, self.size = number, layer, size
        self.input_dtype, self.dtype = input_dtype, dtype
        self.weight = layer.weight.to(dtype)
        self.bias = None if layer.bias is None else layer.bias.to(dtype)
        self.needs: Sequence[bool] = ()
        """For each parameter, True if it needs its gradient."""
        self.sums: list[Tensor | None] = [None] * PARAMETERS
        """The gradients of the parameters."""

    def output(self, place: Tensor | None, start: int, count: int) -> Tensor:
        """Return the memory for the output of these rows: its place, or reused space."""
        if place is not None:
            return place[start : start + count]
        return self._space(f"output {self.number}", len(self.weight), self.dtype)[:count]

    def forward(self, x: Tensor, out: Tensor, v: Tensor | None = None) -> Tensor:
        """W F(x) + bias, or W (F(x) v) + bias."""
        y = self._rational(x, v).to(self.dtype)
        if self.bias is None:
            return torch.mm(y, self.weight.T, out=out)
        return torch.addmm(self.bias, y, self.weight.T, out=out)

    def _rational(self, x: Tensor, v: Tensor | None) -> Tensor:
        if self.layer.f is None:
            return x
        y = self.value[: len(x)]
        cpu.forward(self.layer.f, x, v, y=y)
        return y

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        dx: Tensor | None,
        v: Tensor | None,
        dv: Tensor | None,
    ) -> None:
        """Add to the sums, and write the gradients of x and v where they are given."""
        of_numerator, of_denominator, of_weight, of_bias = self.needs
        f, y = self.layer.f, x
        of_f = of_numerator or of_denominator
        if dx is None and not of_f:
            y = self._rational(x, v) if of_weight else x
        else:
            dx = self.d_input[: len(x)] if dx is None else dx
            d_value = torch.mm(grad, self.weight, out=self.d_value[: len(x)])
            if f is None:
                dx.copy_(d_value)
            else:
                y = self.value[: len(x)]
                kept = y if of_weight else None
                sums = cpu.backward(f, d_value, x, v, dx=dx, dv=dv, y=kept, coefficients=of_f)
                for place, part in enumerate(sums or ()):
                    if self.needs[place]:
                        self._add(place, part)
        d_weight = self.sums[2]
        if of_weight and d_weight is None:
            self.sums[2] = grad.T @ y.to(self.dtype)
        elif d_weight is not None:
            d_weight.addmm_(grad.T, y.to(self.dtype))
        if of_bias:
            self._add(3, grad.sum(0))

    def _add(self, place: int, part: Tensor) -> None:
        """Add a block's part to the gradient of a parameter."""
        total = self.sums[place]
        self.sums[place] = part if total is None else total.add_(part)

    def _space(self, purpose: str, width: int, dtype: torch.dtype) -> Tensor:
        return _workspace.take(purpose, self.size, width, dtype)

    @property
    def value(self) -> Tensor:
        """Space for F(x)."""
        return self._space("value", self.weight.shape[1], self.input_dtype)

    @property
    def d_value(self) -> Tensor:
        """Space for the gradient of F(x)."""
        return self._space("d_value", self.weight.shape[1], self.dtype)

    @property
    def d_input(self) -> Tensor:
        """Space for the gradient of x, which outlives the layer."""
        return self._space(f"d_input {self.number}", self.weight.shape[1], self.input_dtype)


class _Workspace(threading.local):
    """Memory of a thread that every call uses again: the system need not give and clear it anew.

    The memory of one block for all rows is not kept.
    """

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, purpose: str, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Memory for (rows, width), with what is left of its last use."""
        size = rows * width * dtype.itemsize
        buffer = self.buffers.get(purpose)
        if buffer is None or len(buffer) < size:
            with torch.inference_mode(False):  # else only inference mode could write into it
                buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
            if size <= sizes.block_bytes():
                self.buffers[purpose] = buffer
        return buffer[:size].view(dtype).view(rows, width)


_workspace = _Workspace()


def _block_layers(
    rows: Tensor, layers: Sequence[Layer], *, dtype: torch.dtype, whole: bool
) -> tuple[int, list[_BlockLayer]]:
    """Return the size of a block, and the layers with space for so many rows."""
    hidden = max(len(layer.weight) for layer in layers) * dtype.itemsize
    row_bytes = max(rows.shape[-1] * rows.element_size(), hidden)
    count = 1 if whole else math.ceil(len(rows) / sizes.block_rows(row_bytes)) or 1
    size = math.ceil(len(rows) / count) or 1  # equal blocks
    found = []
    input_dtype = rows.dtype
    for number, layer in enumerate(layers):
        found.append(_BlockLayer(number, layer, size, input_dtype, dtype))
        input_dtype = dtype
    return size, found
