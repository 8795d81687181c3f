"""An MLP in compiled code: at inference on a CPU one operator, which runs in blocks of rows.

``torch.compile`` does not look into it. What it could fuse is little beside what blocks save.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kat.nn.execution.blocks import Modules, fit, least_bytes, pay, run_in_blocks, widest_bytes
from kat.nn.execution.layer import Layer, plain_layer
from kat.ops.torch_internals import (
    constant_when_compiled,
    in_function_transform,
    is_exporting,
    refuse_forward_mode,
)


def compiled_mlp(x: Tensor, modules: Modules) -> Tensor | None:
    """The output of the modules as one operator; None where they must be called.

    They must be called in training, on other devices, in exported programs, under autocast and in
    ``torch.func``, and where one is more than its formula. Small ones are too, if their size is
    fixed: blocks do not pay there. If it is not, the operator decides in each call.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    if is_exporting() or in_function_transform():
        return None
    width = max([getattr(linear, "out_features", 0) for _, linear in modules])
    if x.dim() == 0 or _is_known(widest_bytes(x, width) < _least_bytes()):
        return None
    parameters: list[Tensor | None] = []
    forms: list[str] = []
    for activation, linear in modules:
        layer = plain_layer(activation, linear)
        if layer is None or layer.weight.dtype != x.dtype:
            return None
        parameters += [layer.numerator, layer.denominator, layer.weight, layer.bias]
        forms.append(layer.form)
    y: Tensor = torch.ops.kat.grkan_mlp.default(x, parameters, forms)
    return y


def _is_known(condition: bool) -> bool:
    """Whether a condition on sizes holds, as far as the compiler knows without a guard."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    return statically_known_true(condition)


@constant_when_compiled
def _least_bytes() -> int:
    return least_bytes()


def _mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[str]) -> Tensor:
    """W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k."""
    refuse_forward_mode("rational")
    layers = [Layer._make((form, *parameters[4 * i : 4 * i + 4])) for i, form in enumerate(forms)]
    if pay(x, max(len(layer.weight) for layer in layers)) and fit(x, layers):
        return run_in_blocks(x, layers)
    for layer in layers:
        x = layer.output(x)
    return x


def _fake_mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[str]) -> Tensor:
    weight = parameters[-2]
    assert weight is not None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


torch.library.define(
    "kat::grkan_mlp",
    "(Tensor x, Tensor?[] parameters, str[] forms) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("kat::grkan_mlp", "CompositeExplicitAutograd", _mlp)
torch.library.register_fake("kat::grkan_mlp", _fake_mlp)
