"""GR-KAN layers on a CPU, a block of rows at a time.

F(x), the hidden layer of an MLP and their gradients are larger than the caches of a processor, and
each is written once and read once. Here they exist for one block of rows at a time, in memory that
is used again for the next block and so stays in the caches. In training the layers are one autograd
function, which keeps x and the hidden layer, or x alone, and computes F(x) again in the same pass
over x as its gradients.

:func:`layers` decides; nothing below it asks again, except the backward pass, whose
gradients may be differentiated themselves.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.nn.hooks import call_grkan_hooks, has_grkan_hooks
from kat.nn.rational import GroupRational, product_dtype
from kat.ops import Form, rational
from kat.ops.arguments import Rational, check_arguments
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import (
    constant_when_compiled,
    in_function_transform,
    is_eager,
    is_exporting,
    is_ordinary,
    is_patched,
    refuse_forward_mode,
)

SMALL = 1 << 15
"""Fewer values of x than this are a small call: what Python asks takes longer than F."""
_TENSOR_TYPES = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""
Modules: TypeAlias = Sequence[nn.Module]
"""A rational, or an ``nn.Identity`` in its place; dropout and norm; the linear map."""
_LEAST_ROWS = 32
_LARGEST_BLOCK = 1 << 24
"""Bytes of the widest layer."""
_LEVEL_2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_UNKNOWN_CACHE = 1 << 20
"""The size of a second-level cache that is assumed where the system does not tell."""


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


# ---- the decision


def layers(module: Any, x: Tensor, v: Tensor | None = None) -> list[Layer] | None:
    """Return the tensors of a module's layers if they are to run in blocks of rows of x; else None.

    Blocks are for a large call of layers that are no more than their formula, on a CPU. For an MLP
    this includes compiled inference.

    Args:
        module: a GR-KAN layer or MLP.
        x: its input, or of the rational in a gate.
        v: of x's shape, the value of a gate.
    """
    if type(x) not in _TENSOR_TYPES or x.device.type != "cpu":
        return None
    compiling, keep = torch.compiler.is_compiling(), module.keep
    if not compiling and x.numel() < (SMALL if keep is None else 1):
        return None
    modules = module.grkan_layers()
    if not compiling and not torch.is_grad_enabled() and _stays_in_caches(x, modules):
        return None
    if in_function_transform() or is_exporting():
        return None
    found = _fusible_layers(x, modules)
    if found is None:
        return None
    if compiling:
        return found if _has_operator(x, found) else None
    if (keep == "all" and _is_recorded(x, found, v)) or not _has_kernels(x, found, v):
        return None
    return found


def run(module: Any, x: Tensor, layers: Sequence[Layer], v: Tensor | None = None) -> Tensor:
    """Return the output of the layers that :func:`layers` returned; one at a time for hooks."""
    if not has_grkan_hooks():
        return _run(x, layers, v, keep=module.keep)
    for layer, modules in zip(layers, module.grkan_layers(), strict=True):
        y = _run(x, [layer], v, keep=module.keep)
        call_grkan_hooks(modules[0], modules[-1], x, y)
        x = y
    return x


def _run(x: Tensor, layers: Sequence[Layer], v: Tensor | None, *, keep: str | None) -> Tensor:
    forms = [layer.form for layer in layers]
    if torch.compiler.is_compiling():
        y: Tensor = torch.ops.kat.grkan_mlp.default(x, _parameters(layers), forms)
        return y
    dtype = product_dtype(x)
    if not _is_recorded(x, layers, v):
        return forward(x, layers, dtype=dtype, v=v)
    recorded: Tensor = _Blocks.apply(x, v, forms, dtype, keep != "input", *_parameters(layers))
    return recorded


def _stays_in_caches(x: Tensor, modules: Sequence[Modules]) -> bool:
    """Return True if eager layers stay in the caches without blocks. Nothing else is kept."""
    widths = [getattr(own[-1], "out_features", 0) for own in modules]
    return x.dim() > 0 and _widest_bytes(x, widths) < least_bytes()


def _fusible_layers(x: Tensor, modules: Sequence[Modules]) -> list[Layer] | None:
    """Return the tensors of layers that are no more than their formula, and take x; else None.

    A layer does more if a module is patched (hooks, a derived class, a ``forward`` of its own,
    parameters of a tensor subclass), was given a backend by name, or does something between a
    rational and its linear map. Where tensors do not fit together, the modules say what is wrong.
    """
    found: list[Layer] = []
    width = x.shape[-1:]
    for own in modules:
        layer = _fusible_layer(own)
        if layer is None:
            return None
        weight = layer.weight
        if weight.shape[1:] != width or weight.device != x.device or weight.layout != x.layout:
            return None
        found.append(layer)
        width = weight.shape[:1]
    return found


def _fusible_layer(modules: Modules) -> Layer | None:
    """Return the tensors of a layer that is no more than its formula; else None."""
    activation, *between, linear = modules
    for module in between:
        if not _has_no_effect(module):
            return None
    if type(linear) is not nn.Linear or is_patched(linear):
        return None
    weight, bias = linear.weight, linear.bias
    if type(weight) not in _TENSOR_TYPES or not (bias is None or type(bias) in _TENSOR_TYPES):
        return None
    if type(activation) is nn.Identity and not is_patched(activation):
        return Layer(None, weight, bias)
    if type(activation) is not GroupRational or is_patched(activation):
        return None
    if activation.channel_dim != -1 or activation.impl is not None:
        return None
    if activation.num_channels not in (None, weight.shape[1]):
        return None
    f = Rational(activation.weight_numerator, activation.weight_denominator, activation.form)
    if type(f.numerator) not in _TENSOR_TYPES or type(f.denominator) not in _TENSOR_TYPES:
        return None
    try:
        check_arguments(f, weight)  # as wide as F(x)
    except (TypeError, ValueError):
        return None
    return Layer(f, weight, bias)


def _has_no_effect(module: nn.Module) -> bool:
    """Return True if a dropout or norm returns its input, and nothing observes it."""
    if type(module) is nn.Dropout:
        return not (module.training and module.p > 0) and not is_patched(module)
    return type(module) is nn.Identity and not is_patched(module)


def _is_recorded(x: Tensor, layers: Sequence[Layer], v: Tensor | None) -> bool:
    """Return True if a backward pass may follow."""
    if not torch.is_grad_enabled():
        return False
    tensors = (x, v, *_parameters(layers))
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _has_kernels(x: Tensor, layers: Sequence[Layer], v: Tensor | None) -> bool:
    """Return True if nothing observes or rewrites operations, and the kernel takes the layers."""
    if not is_ordinary(x, v):
        return False
    if v is not None and (v.shape, v.dtype, v.device) != (x.shape, x.dtype, x.device):
        return False
    dtype = product_dtype(x)
    for f, weight, bias in layers:
        dtypes = {weight.dtype, weight.dtype if bias is None else bias.dtype}
        if dtype == x.dtype and dtypes != {dtype}:
            return False
        if f is not None and not cpu.supports(f, x):
            return False
    return True


# ---- the size of a block


def block_rows(row_bytes: int) -> int:
    """Return the largest number of rows in a block: what twice the second-level caches hold.

    Then a block is in the caches of second and third level, and products are not too small.

    Args:
        row_bytes: of the widest layer.
    """
    return max(_LEAST_ROWS, _block_bytes() // row_bytes)


def _block_bytes() -> int:
    return min(2 * least_bytes(), _LARGEST_BLOCK)


@constant_when_compiled
def least_bytes() -> int:
    """Return the size of the second-level caches: of a widest layer from which blocks are faster.

    A smaller layer stays in the caches by itself, and what Python does for a block takes longer
    than blocks save.
    """
    return second_level_cache() * torch.get_num_threads()


@functools.cache
def second_level_cache() -> int:
    """Return the size of one core's second-level cache in bytes, as Linux tells it."""
    try:
        return int(_LEVEL_2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN_CACHE


def _widest_bytes(x: Tensor, widths: Sequence[int]) -> int:
    """Return the size of the widest of x (..., d_in) and layers of these widths."""
    d_in = x.shape[-1]
    return x.numel() // (d_in or 1) * max((d_in, *widths)) * x.element_size()


def _block_layers(
    rows: Tensor, layers: Sequence[Layer], *, dtype: torch.dtype, whole: bool
) -> tuple[int, list[_BlockLayer]]:
    """Return the size of a block, and the layers with space for so many rows."""
    hidden = max(len(layer.weight) for layer in layers) * dtype.itemsize
    row_bytes = max(rows.shape[-1] * rows.element_size(), hidden)
    count = 1 if whole else math.ceil(len(rows) / block_rows(row_bytes)) or 1
    size = math.ceil(len(rows) / count) or 1  # equal blocks
    found = []
    input_dtype = rows.dtype
    for number, layer in enumerate(layers):
        found.append(_BlockLayer(number, layer, size, input_dtype, dtype))
        input_dtype = dtype
    return size, found


# ---- forward and backward


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
        for layer in reversed(blocks[max(lowest, 1) :]):
            below = layer.d_input[:count] if layer.number > lowest else None
            found = layer.backward(g, inputs[layer.number], below)
            g = g if found is None else found
        if lowest == 0:
            blocks[0].backward(
                g,
                inputs[0],
                _part(dx, start, count),
                v=_part(values, start, count),
                dv=_part(dv, start, count),
            )
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
        v: Tensor | None = None,
        dv: Tensor | None = None,
    ) -> Tensor | None:
        """Add to the sums, and write the gradients of x and v where they are given."""
        of_numerator, of_denominator, of_weight, of_bias = self.needs
        if dx is None and not of_numerator and not of_denominator:
            y = self._rational(x, v) if of_weight else x
        else:
            space = self.d_input[: len(x)] if dx is None else dx
            y = self._backward_of_value(grad, x, space, v=v, dv=dv)
        d_weight = self.sums[2]
        if of_weight and d_weight is None:
            self.sums[2] = grad.T @ y.to(self.dtype)
        elif d_weight is not None:
            d_weight.addmm_(grad.T, y.to(self.dtype))
        if of_bias:
            self._add(3, grad.sum(0))
        return dx

    def _add(self, place: int, part: Tensor) -> None:
        """Add a block's part to the gradient of a parameter."""
        total = self.sums[place]
        self.sums[place] = part if total is None else total.add_(part)

    def _backward_of_value(
        self, grad: Tensor, x: Tensor, dx: Tensor, *, v: Tensor | None, dv: Tensor | None
    ) -> Tensor:
        """Write dx and dv, add to the sums of F, return F(x) v if the weight needs it."""
        d_value = torch.mm(grad, self.weight, out=self.d_value[: len(x)])
        if self.layer.f is None:
            dx.copy_(d_value)
            return x
        of_numerator, of_denominator, of_weight, _ = self.needs
        y = self.value[: len(x)] if of_weight else None
        wanted = of_numerator or of_denominator
        sums = cpu.backward(self.layer.f, d_value, x, v, dx=dx, dv=dv, y=y, coefficients=wanted)
        if sums is not None:
            d_numerator, d_denominator = sums
            if of_numerator:
                self._add(0, d_numerator)
            if of_denominator:
                self._add(1, d_denominator)
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
            if size <= _block_bytes():
                self.buffers[purpose] = buffer
        return buffer[:size].view(dtype).view(rows, width)


_workspace = _Workspace()


# ---- in autograd


class _Blocks(torch.autograd.Function):
    """Applied to x, v, the forms, the products' dtype, a switch, and the parameters of all layers.

    In bfloat16 and float16 there is one block: sums over blocks would be rounded.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        forms: list[Form],
        dtype: torch.dtype,
        keeps_hidden: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        layers = _layers(forms, parameters)
        hidden: list[Tensor] = []
        if keeps_hidden:
            count = x.shape[:-1].numel()
            hidden = [x.new_empty(count, len(layer.weight), dtype=dtype) for layer in layers[:-1]]
        ctx.forms, ctx.whole = forms, dtype.itemsize == 2
        y = forward(x, layers, dtype=dtype, v=v, hidden=hidden, whole=ctx.whole)
        kept = parameters[:-1]  # no gradient depends on the last bias
        ctx.save_for_backward(x, v, *kept, None, *hidden)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, v, *saved = ctx.saved_tensors
        count = PARAMETERS * len(ctx.forms)
        layers = _layers(ctx.forms, saved[:count])
        hidden = [tensor.contiguous() for tensor in saved[count:]]
        needs_x, needs_v, _, _, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or in_function_transform() or not is_eager(grad):
            dx, dv, *sums = _recorded(grad, x, v, layers, [needs_x, needs_v, *needs])
        else:
            dx, dv, sums = backward(
                grad,
                x,
                layers,
                needs=[needs_x or needs_v, *needs],
                v=v,
                hidden=hidden,
                whole=ctx.whole,
            )
        return dx, dv, None, None, None, *sums


def _parameters(layers: Sequence[Layer]) -> list[Tensor | None]:
    parameters: list[Tensor | None] = []
    for layer in layers:
        parameters += layer.tensors
    return parameters


def _layers(forms: Sequence[str], parameters: Sequence[Tensor | None]) -> list[Layer]:
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


def _recorded(
    grad: Tensor, x: Tensor, v: Tensor | None, layers: Sequence[Layer], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the layers' formula by autograd, differentiable again."""
    places: list[Any] = [x, v, *_parameters(layers)]
    if needs[-1]:  # the last bias is not kept
        weight = layers[-1].weight
        places[-1] = weight.new_zeros(len(weight), requires_grad=True)
    needed = [number for number, need in enumerate(needs) if need]
    with torch.enable_grad():
        # A tensor may take several places, each of which has a gradient of its own.
        for number in needed:
            places[number] = places[number].view_as(places[number])
        forms = [layer.form for layer in layers]
        y = _formula(places[0], places[1], _layers(forms, places[2:]), grad.dtype)
    wanted = [places[number] for number in needed]
    found = torch.autograd.grad(y, wanted, grad, create_graph=torch.is_grad_enabled())
    gradients: list[Tensor | None] = [None] * len(needs)
    for number, gradient in zip(needed, found, strict=True):
        gradients[number] = gradient
    return gradients


def _formula(x: Tensor, v: Tensor | None, layers: Sequence[Layer], dtype: torch.dtype) -> Tensor:
    """W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k by plain operations, with products in a dtype."""
    for f, weight, bias in layers:
        y = x if f is None else rational(x, f.numerator, f.denominator, v, form=cast(Form, f.form))
        bias = None if bias is None else bias.to(dtype)
        x = functional.linear(y.to(dtype), weight.to(dtype), bias)
    return x


# ---- in compiled code


def _has_operator(x: Tensor, layers: Sequence[Layer]) -> bool:
    """Return True if compiled layers are one operator, which decides for blocks in each call.

    So is an MLP at inference: ``torch.compile`` does not look into the operator, since what it
    could fuse is little beside what blocks save. An MLP consists of plain operations under
    autocast, and for a size that is fixed and too small for blocks.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    if len(layers) < 2 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if has_grkan_hooks():
        return False
    if any(layer.weight.dtype != x.dtype for layer in layers):
        return False
    widths = [len(layer.weight) for layer in layers]
    return not statically_known_true(_widest_bytes(x, widths) < least_bytes())


def _mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[Form]) -> Tensor:
    refuse_forward_mode()
    layers = _layers(forms, parameters)
    large = _widest_bytes(x, [len(layer.weight) for layer in layers]) >= least_bytes()
    if large and _has_kernels(x, layers, None):
        return forward(x, layers, dtype=x.dtype)
    return _formula(x, None, layers, x.dtype)


def _fake_mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[Form]) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(_layers(forms, parameters)[-1].weight)))


torch.library.define(
    "kat::grkan_mlp",
    "(Tensor x, Tensor?[] parameters, str[] forms) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("kat::grkan_mlp", "CompositeExplicitAutograd", _mlp)
torch.library.register_fake("kat::grkan_mlp", _fake_mlp)
