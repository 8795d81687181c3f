"""GR-KAN layers on a CPU, a block of rows at a time.

F(x), the hidden layer of an MLP and their gradients are larger than the caches of a processor, and
each is written once and read once. Here they exist for one block of rows at a time, in memory that
is used again for the next block and so stays in the caches.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kat.nn.execution.layer import PARAMETERS, Layer, product_dtype
from kat.ops.arguments import compute_dtype
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import constant_when_compiled, is_ordinary

_LEAST_ROWS = 32
_LARGEST_BLOCK = 1 << 24
"""Bytes of the widest layer: the memory of a block is kept for the next call."""
_LEVEL_2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_UNKNOWN_CACHE = 1 << 20
"""The size of a second-level cache that is assumed where the system does not tell."""


def block_rows(row_bytes: int) -> int:
    """The largest number of rows in a block: what twice the second-level caches hold.

    Then a block is in the caches of second and third level, and products are not too small.

    Args:
        row_bytes: of the widest layer.
    """
    size = 2 * _second_level_caches()
    return max(_LEAST_ROWS, min(size, _LARGEST_BLOCK) // row_bytes)


@constant_when_compiled
def least_bytes() -> int:
    """The size of a widest layer from which blocks are faster: what the second-level caches hold.

    A smaller layer stays in the caches by itself, and what Python does for a block takes longer
    than blocks save.
    """
    return _second_level_caches()


def _second_level_caches() -> int:
    return second_level_cache() * torch.get_num_threads()


@functools.cache
def second_level_cache() -> int:
    """The size of one core's second-level cache in bytes, as Linux tells it."""
    try:
        size = int(_LEVEL_2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN_CACHE
    return size


def widest_bytes(x: Tensor, widths: Sequence[int]) -> int:
    """The size of the widest of x (..., d_in) and layers of these widths."""
    d_in = x.shape[-1]
    return x.numel() // (d_in or 1) * max((d_in, *widths)) * x.element_size()


def _widths(layers: Sequence[Layer]) -> list[int]:
    return [layer.weight.shape[0] for layer in layers]


def dtype_if_faster(x: Tensor, layers: Sequence[Layer], *, recorded: bool) -> torch.dtype | None:
    """Return the dtype of the products if the layers may and should run in blocks for x, or None.

    Not on another device, where something observes or rewrites operations, where the kernel does
    not take the arguments, and where layers are small. Nor in training with products in bfloat16 or
    float16, whose sums over blocks would be rounded.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if widest_bytes(x, _widths(layers)) < least_bytes() or not is_ordinary(x):
        return None
    dtype = product_dtype(x)
    if recorded and dtype not in (torch.float32, torch.float64):
        return None
    for form, numerator, denominator, weight, bias in layers:
        dtypes = {weight.dtype, weight.dtype if bias is None else bias.dtype}
        if dtype == x.dtype and dtypes != {dtype}:
            return None
        if numerator is None or denominator is None:
            continue
        if not cpu.supports(x, numerator, denominator, form):
            return None
    return dtype


def may_be_faster(x: Tensor, layers: Sequence[Layer]) -> bool:
    """Return True if compiled inference is one operator, which decides for blocks in each call.

    It consists of plain operations on other devices, under autocast, and for a size that is fixed
    and too small for blocks.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    one = len(layers) > 1 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    one = one and all(layer.weight.dtype == x.dtype for layer in layers)
    return one and not statically_known_true(widest_bytes(x, _widths(layers)) < least_bytes())


def forward(
    x: Tensor,
    layers: Sequence[Layer],
    dtype: torch.dtype,
    hidden: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """The output of layers that may run in blocks.

    Args:
        x: (..., d_in).
        layers: the layers.
        dtype: of the products.
        hidden: where the outputs of all layers but the last one are stored, (rows, width) each;
            None: nowhere.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    output = x.new_empty(*x.shape[:-1], len(layers[-1].weight), dtype=dtype)
    places = (*(hidden or [None] * (len(layers) - 1)), output.view(len(rows), output.shape[-1]))
    size, blocks = _block_layers(rows, layers, dtype)
    for start in range(0, len(rows), size):
        values = rows[start : start + size]
        for layer, place in zip(blocks, places, strict=True):
            values = layer.forward(values, layer.output(place, start, len(values)))
    return output  # no view: autograd would refuse to let it be changed in place


def backward(
    grad: Tensor,
    x: Tensor,
    layers: Sequence[Layer],
    hidden: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x and of each layer's parameters; None where none is needed.

    Args:
        grad: of the output.
        x, layers: as of :func:`forward`.
        hidden: what :func:`forward` has stored; empty: it is computed again.
        needs: for x and each parameter, True if it needs its gradient.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    grad = grad.reshape(len(rows), grad.shape[-1])
    kept: list[Tensor | None] = [tensor.contiguous() for tensor in hidden]
    kept = kept or [None] * (len(layers) - 1)
    size, blocks = _block_layers(rows, layers, x.dtype)
    for layer, start in zip(blocks, range(1, len(needs), PARAMETERS), strict=True):
        layer.start_backward(needs[start : start + PARAMETERS])
    lowest = 0 if needs[0] else (needs.index(True) - 1) // PARAMETERS
    dx = torch.empty_like(rows) if needs[0] else None
    for start in range(0, len(rows), size):
        inputs = [rows[start : start + size]]
        count = len(inputs[0])
        for layer, place in zip(blocks, kept, strict=False):
            values = layer.output(place, start, count)
            inputs.append(layer.forward(inputs[-1], values) if place is None else values)
        g: Tensor | None = grad[start : start + count]
        for i in reversed(range(lowest, len(blocks))):
            assert g is not None
            below = blocks[i].d_input[:count] if i > lowest else None
            target = dx[start : start + count] if i == 0 and dx is not None else below
            g = blocks[i].backward(g, inputs[i], target)
    sums = [total for layer in blocks for total in layer.sums]
    return [None if dx is None else dx.view(x.shape), *sums]  # autograd casts them


def _block_layers(
    rows: Tensor, layers: Sequence[Layer], dtype: torch.dtype
) -> tuple[int, list[_BlockLayer]]:
    """The size of a block, and the layers with space for so many rows."""
    hidden = max(_widths(layers)) * dtype.itemsize
    row_bytes = max(rows.shape[-1] * rows.element_size(), hidden)
    count = math.ceil(len(rows) / block_rows(row_bytes)) or 1
    size = math.ceil(len(rows) / count) or 1  # equal blocks
    dtypes = [rows.dtype, *(dtype for _ in layers[1:])]
    return size, [
        _BlockLayer(number, layer, size, input_dtype, dtype)
        for number, (layer, input_dtype) in enumerate(zip(layers, dtypes, strict=True))
    ]


class _BlockLayer:
    """One layer for a block of rows at a time: its space, and the sums of its gradients."""

    def __init__(
        self, number: int, layer: Layer, size: int, input_dtype: torch.dtype, dtype: torch.dtype
    ) -> None:
        self.number, self.layer, self.size = number, layer, size
        self.input_dtype, self.dtype = input_dtype, dtype
        self.weight = layer.weight.to(dtype)
        self.bias = None if layer.bias is None else layer.bias.to(dtype)
        self.sums: list[Tensor | None] = []

    def output(self, place: Tensor | None, start: int, count: int) -> Tensor:
        """The memory for the output of these rows: its place, or space that is used again."""
        if place is not None:
            return place[start : start + count]
        return self._space(f"output {self.number}", len(self.weight), self.dtype)[:count]

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """W F(x) + bias."""
        y = self._rational(x, self.value[: len(x)]).to(self.dtype)
        if self.bias is None:
            return torch.mm(y, self.weight.T, out=out)
        return torch.addmm(self.bias, y, self.weight.T, out=out)

    def _rational(self, x: Tensor, out: Tensor) -> Tensor:
        form, numerator, denominator, *_ = self.layer
        if numerator is None or denominator is None:
            return x
        cpu.forward(out, x, numerator, denominator, form)
        return out

    def start_backward(self, needs: Sequence[bool]) -> None:
        """Sets the sums to zero for the parameters that need a gradient."""
        layer = self.layer._replace(bias=self.weight[:, 0])  # the bias itself may not be kept
        exact = compute_dtype(self.dtype)  # of the sums for F that the kernel returns
        dtypes = (exact, exact, self.dtype, self.dtype)
        self.sums = [
            torch.zeros_like(tensor, dtype=dtype) if need and tensor is not None else None
            for tensor, dtype, need in zip(layer.tensors, dtypes, needs, strict=True)
        ]

    def backward(self, grad: Tensor, x: Tensor, dx: Tensor | None) -> Tensor | None:
        """Adds to the sums, and writes the gradient of x into ``dx`` where that is given."""
        d_numerator, d_denominator, d_weight, d_bias = self.sums
        if dx is None and d_numerator is None and d_denominator is None:
            y = x if d_weight is None else self._rational(x, self.value[: len(x)])
        else:
            y = self._backward_of_value(grad, x, self.d_input[: len(x)] if dx is None else dx)
        if d_weight is not None:
            d_weight.addmm_(grad.T, y)
        if d_bias is not None:
            d_bias += grad.sum(0)
        return dx

    def _backward_of_value(self, grad: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Writes dx, adds to the sums of F, returns F(x) if the weight needs it."""
        form, numerator, denominator, *_ = self.layer
        d_value = torch.mm(grad, self.weight, out=self.d_value[: len(x)])
        if numerator is None or denominator is None:
            dx.copy_(d_value)
            return x
        y = None if self.sums[2] is None else self.value[: len(x)]
        parts = cpu.backward(dx, y, d_value, x, numerator, denominator, form)
        for total, part in zip(self.sums[:2], parts, strict=True):
            if total is not None:
                total += part
        return x if y is None else y

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
    """Memory of a thread that every call uses again: the system need not give and clear it anew."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, purpose: str, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Memory for (rows, width), with what is left of its last use."""
        size = rows * width * dtype.itemsize
        buffer = self.buffers.get(purpose)
        if buffer is None or len(buffer) < size:
            with torch.inference_mode(False):  # else only inference mode could write into it
                buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
                self.buffers[purpose] = buffer
        return buffer[:size].view(dtype).view(rows, width)


_workspace = _Workspace()
