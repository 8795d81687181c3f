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
from typing import Any

import torch
from torch import Tensor, nn

from kat.nn.execution.layer import PLAIN, Layer, plain_layer
from kat.nn.rational import GroupRational
from kat.ops import FORMS, Form
from kat.ops.arguments import compute_dtype
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import in_function_transform, is_plain_eager, is_profiling

Modules = Sequence[tuple[GroupRational | None, nn.Linear]]
"""Rationals, each with the linear map after it; None: no rational."""

_PARAMETERS = len(Layer._fields) - 1
"""The tensors of a layer."""
_LEAST_ROWS = 32
_LARGEST_BLOCK = 1 << 24
"""Bytes of the widest layer: the memory of a block is kept for the next call."""
_LEVEL_2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_UNKNOWN_CACHE = 1 << 20
"""The size that is assumed where the system does not tell that of the second-level cache."""


def block_rows(row_bytes: int) -> int:
    """The largest number of rows in a block: what twice the second-level caches hold.

    Then a block is in the caches of second and third level, and products are not too small.

    Args:
        row_bytes: of the widest layer.
    """
    size = 2 * _second_level_caches()
    return max(_LEAST_ROWS, min(size, _LARGEST_BLOCK) // row_bytes)


def least_bytes() -> int:
    """The size of a widest layer from which blocks pay: what the second-level caches hold.

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


def pay(x: Tensor, width: int) -> bool:
    """Whether blocks may pay for a layer of x of this width: the first question, and a quick one.

    Args:
        x: (..., d_in), or what a tracer has in its place.
        width: of the widest layer, but for the input.
    """
    if torch.compiler.is_compiling() or type(x) not in PLAIN or x.device.type != "cpu":
        return False
    return x.dim() > 0 and widest_bytes(x, width) >= least_bytes()


def widest_bytes(x: Tensor, width: int) -> int:
    """The size of the widest of some layers: x (..., d_in), or another one of this width."""
    return x.shape[:-1].numel() * max(x.shape[-1], width) * x.element_size()


def layers_for_blocks(x: Tensor, modules: Modules) -> list[Layer] | None:
    """The layers that :func:`run_in_blocks` may compute in the place of the modules.

    None where the modules must be called: not on the CPU, where one is more than its formula, where
    something observes or rewrites operations, or where the kernel does not take the arguments. Or
    should be: where layers are smaller than :func:`least_bytes`, and in training with products in
    bfloat16 or float16, whose sums over blocks would be rounded.

    Args:
        x: the input.
        modules: the layers.
    """
    widest = max(getattr(linear, "out_features", 0) for _, linear in modules)
    if not pay(x, widest) or not is_plain_eager(x) or is_profiling() or in_function_transform():
        return None
    layers = []
    for activation, linear in modules:
        layer = plain_layer(activation, linear)
        if layer is None:
            return None
        layers.append(layer)
    return layers if fit(x, layers) else None


def fit(x: Tensor, layers: list[Layer]) -> bool:
    """Whether :func:`run_in_blocks` takes the layers, one after the other, for x."""
    width, dtype = x.shape[-1], _product_dtype(x)
    for layer in layers:
        if not _takes(layer, x, width, dtype):
            return False
        width = layer.weight.shape[0]
    return dtype in (torch.float32, torch.float64) or not _records(x, layers)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of linear maps of x; autocast leaves float64 alone."""
    autocasts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocasts else x.dtype


def _records(x: Tensor, layers: list[Layer]) -> bool:
    """Whether autograd will ask for gradients."""
    if not torch.is_grad_enabled():
        return False
    tensors = (x, *(tensor for layer in layers for tensor in layer.tensors))
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _takes(layer: Layer, x: Tensor, width: int, dtype: torch.dtype) -> bool:
    """Whether the parameters fit together and to x of this width; if not, the modules say why."""
    form, numerator, denominator, weight, bias = layer
    if weight.shape[1] != width or weight.device != x.device or weight.layout != x.layout:
        return False
    if dtype == x.dtype and not weight.dtype == (weight if bias is None else bias).dtype == dtype:
        return False
    if numerator is None or denominator is None:
        return True
    if form not in FORMS or numerator.dim() != 2 or denominator.dim() != 2:
        return False
    groups = max(numerator.shape[0], denominator.shape[0], 1)
    for coefficients in (numerator, denominator):
        if coefficients.shape[0] not in (1, groups) or coefficients.device != x.device:
            return False
        if coefficients.layout != x.layout or not coefficients.is_floating_point():
            return False
    fits = numerator.shape[1] > 1 and width % groups == 0
    return fits and cpu.supports(x.dtype, numerator.shape[1] - 1, denominator.shape[1])


def run_in_blocks(x: Tensor, layers: list[Layer], *, keeps_hidden: bool = True) -> Tensor:
    """y = W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k.

    Args:
        x: (..., d_in).
        layers: of :func:`layers_for_blocks`.
        keeps_hidden: keep the inputs of all layers for the backward pass, or x alone, from which it
            then computes the others again.

    Returns:
        y, (..., d_out), in the dtype of autocast if that is active.
    """
    dtype = _product_dtype(x)
    if not _records(x, layers):
        return _forward(x, layers, dtype, [None] * (len(layers) - 1))
    forms = [layer.form for layer in layers]
    parameters = [tensor for layer in layers for tensor in layer.tensors]
    y: Tensor = _InBlocks.apply(x, forms, keeps_hidden, *parameters)
    return y


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forms: list[Form],
        keeps_hidden: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        layers = _layers(forms, parameters)
        hidden: list[Tensor | None] = [None] * (len(layers) - 1)
        if keeps_hidden:
            count = x.shape[:-1].numel()
            hidden = [x.new_empty(count, len(layer.weight)) for layer in layers[:-1]]
        ctx.forms = forms
        last = layers[-1]._replace(bias=None)  # no gradient depends on it
        ctx.save_for_backward(x, *parameters[:-_PARAMETERS], *last.tensors, *hidden)
        return _forward(x, layers, x.dtype, hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = _PARAMETERS * len(ctx.forms)
        layers, hidden = _layers(ctx.forms, saved[:count]), saved[count:]
        for_x, _, _, *for_parameters = ctx.needs_input_grad
        needs = [for_x, *for_parameters]
        if torch.is_grad_enabled() or not is_plain_eager(grad) or in_function_transform():
            found = _backward_of_operations(grad, x, layers, needs)
        else:
            found = _backward(grad, x, layers, hidden, needs)
        return found[0], None, None, *found[1:]


def _layers(forms: Sequence[Form], parameters: Sequence[Any]) -> list[Layer]:
    starts = range(0, len(parameters), _PARAMETERS)
    return [
        Layer._make((form, *parameters[start : start + _PARAMETERS]))
        for start, form in zip(starts, forms, strict=True)
    ]


def _forward(
    x: Tensor, layers: list[Layer], dtype: torch.dtype, hidden: Sequence[Tensor | None]
) -> Tensor:
    """The output; the hidden layers, (rows, width), are stored where they have a place."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    output = x.new_empty(*x.shape[:-1], len(layers[-1].weight), dtype=dtype)
    y = output.view(len(rows), output.shape[-1])
    size, blocks = _block_layers(rows, layers, dtype)
    for start in range(0, len(rows), size):
        values = rows[start : start + size]
        for layer, place in zip(blocks, (*hidden, y), strict=True):
            values = layer.forward(values, layer.output(place, start, len(values)))
    return output  # no view: autograd would refuse to let it be changed in place


def _backward(
    grad: Tensor,
    x: Tensor,
    layers: list[Layer],
    hidden: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x and of each layer's parameters; None where none is needed."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    grad = grad.reshape(len(rows), grad.shape[-1])
    hidden = [None if kept is None else kept.contiguous() for kept in hidden]
    size, blocks = _block_layers(rows, layers, x.dtype)
    for layer, start in zip(blocks, range(1, len(needs), _PARAMETERS), strict=True):
        layer.start_backward(needs[start : start + _PARAMETERS])
    lowest = 0 if needs[0] else (needs.index(True) - 1) // _PARAMETERS
    dx = torch.empty_like(rows) if needs[0] else None
    for start in range(0, len(rows), size):
        inputs = [rows[start : start + size]]
        count = len(inputs[0])
        for layer, place in zip(blocks, hidden, strict=False):
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


def _backward_of_operations(
    grad: Tensor, x: Tensor, layers: list[Layer], needs: Sequence[bool]
) -> list[Tensor | None]:
    """As ``_backward``, of differentiable operations, which also take batches of gradients."""
    inputs = [x]
    for layer in layers[:-1]:
        inputs.append(layer.output(inputs[-1]))
    g: Tensor | None = grad
    found: list[Tensor | None] = []
    for layer, values in zip(reversed(layers), reversed(inputs), strict=True):
        start = len(needs) - len(found) - _PARAMETERS
        if g is None:  # nothing below needs a gradient
            break
        needed = [any(needs[:start]), *needs[start : start + _PARAMETERS]]
        g, *of_parameters = layer.gradients(g, values, needed)
        found = [*of_parameters, *found]
    nothing = [None] * (len(needs) - 1 - len(found))
    return [g, *nothing, *found]


def _block_layers(
    rows: Tensor, layers: list[Layer], dtype: torch.dtype
) -> tuple[int, list[_BlockLayer]]:
    """The size of a block, and the layers with space for so many rows."""
    widest = max(rows.shape[-1], *(len(layer.weight) for layer in layers))
    count = math.ceil(len(rows) / block_rows(widest * rows.element_size())) or 1
    size = math.ceil(len(rows) / count) or 1  # equal blocks
    dtypes = [rows.dtype, *(dtype for _ in layers[1:])]
    return size, [
        _BlockLayer(number, layer, size, of_input, dtype)
        for number, (layer, of_input) in enumerate(zip(layers, dtypes, strict=True))
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
        """Where the output of these rows goes: into its place, or space that is used again."""
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
        """Sets the sums to zero, of those parameters that need a gradient."""
        layer = self.layer._replace(bias=self.weight[:, 0])  # the bias itself may not be kept
        exact = compute_dtype(self.dtype)  # in which the kernel returns those of F
        dtypes = (exact, exact, self.dtype, self.dtype)
        self.sums = [
            torch.zeros_like(tensor, dtype=dtype) if need and tensor is not None else None
            for tensor, dtype, need in zip(layer.tensors, dtypes, needs, strict=True)
        ]

    def backward(self, grad: Tensor, x: Tensor, dx: Tensor | None) -> Tensor | None:
        """Adds to the sums, and writes the gradient of x into ``dx`` where that is given."""
        of_numerator, of_denominator, of_weight, of_bias = self.sums
        if dx is None and of_numerator is None and of_denominator is None:
            y = x if of_weight is None else self._rational(x, self.value[: len(x)])
        else:
            y = self._backward_of_value(grad, x, self.d_input[: len(x)] if dx is None else dx)
        if of_weight is not None:
            of_weight.addmm_(grad.T, y)
        if of_bias is not None:
            of_bias += grad.sum(0)
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
