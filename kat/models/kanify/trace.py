"""The order in which a module's code calls its children, by symbolic tracing.

``torch.fx`` runs ``forward`` on symbols, with linear maps and childless modules as single steps. It
is run on a copy that shares the parameters, in which functions held as attributes are modules as
well, so that they too become steps with a name. The model itself is never touched.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def linear_widths(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear map, None for anything else.

    Linear maps are ``nn.Linear`` with all that derives from it, and the ``Conv1D`` of transformers,
    whose weight is (d_in, d_out).
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, torch.Tensor) and weight.ndim == 2:
        return weight.shape[0], weight.shape[1]
    return None


@torch.no_grad()
def channel_weights(linear: nn.Module) -> torch.Tensor:
    """|W e_c|^2 for each input channel c of a linear map: (d_in,), in float64, on its device.

    Taken from what it computes, as its weights may be transposed or quantised. The bias is zero
    meanwhile, in a copy: in low precision W e_c would be lost beside a large one.
    """
    widths, weight = linear_widths(linear), linear.weight
    assert widths is not None
    assert isinstance(weight, torch.Tensor)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    bare = _shallow(linear)
    bias = linear._parameters.get("bias")
    if bias is not None:
        bare._parameters["bias"] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
    zero = bare.forward(torch.zeros(1, widths[0], dtype=dtype, device=weight.device))
    unit = torch.eye(widths[0], dtype=dtype, device=weight.device)
    columns = [bare.forward(rows) - zero for rows in unit.split(1024)]
    return torch.cat([column.double().square().sum(-1) for column in columns])


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The functions that a module with children holds as public attributes, by name."""
    if not any(module.children()):
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
        and name != "forward"
    }  # fmt: skip


def trace(module: nn.Module) -> fx.Graph | None:
    """The graph of a module's ``forward``, None where it cannot be traced.

    Random numbers that it draws are given back.
    """
    devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            return _Tracer().trace(_skeleton(module))
        except Exception:  # foreign code, run on symbols, can raise anything
            return None


class _Function(nn.Module):
    """Stands for a function that a module holds; never called."""


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy of all modules, without hooks, that shares the parameters."""
    skeleton = _shallow(module)
    vars(skeleton).update({name: OrderedDict() for name in _HOOKS})
    vars(skeleton)["_buffers"] = {name: _own(value) for name, value in module._buffers.items()}
    vars(skeleton)["_modules"] = {
        name: child and _skeleton(child) for name, child in module._modules.items()
    }
    for name in held_functions(module):
        setattr(skeleton, name, _Function())
    return skeleton


def _shallow(module: nn.Module) -> nn.Module:
    """A copy of one module with the same parameters, buffers and children."""
    copied: nn.Module = object.__new__(type(module))
    vars(copied).update({name: _own(value) for name, value in vars(module).items()})
    return copied


def _own(value: Any) -> Any:
    """A copy of what code changes in place: tensors, lists, dictionaries, sets."""
    if isinstance(value, torch.Tensor) and not nn.parameter.is_lazy(value):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, list | dict | set) else value


class _Tracer(fx.Tracer):
    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Makes symbols of the arguments that must be given; the others keep their defaults."""
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        needed = [
            p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        symbols = [self.create_proxy("placeholder", p.name, (), {}) for p in needed]
        return root_fn, [self.root, *symbols]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Goes into modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if any(m.children()) and linear_widths(m) is None:
            try:
                return forward(*args, **kwargs)
            except Exception:  # as in trace()
                pass
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Takes conditions on data (mixed precision, empty inputs) as not met."""
        return False
