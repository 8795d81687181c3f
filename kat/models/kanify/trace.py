"""The order in which a module's code calls its children, by symbolic tracing.

``torch.fx`` runs ``forward`` on symbols, with linear maps and childless modules as single steps. It
runs on a copy that shares the parameters. In the copy, functions held as attributes are modules,
so that they become steps with a name too. The model itself is never touched.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn


def linear_widths(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear map, None for any other module.

    Linear maps are ``nn.Linear`` with its subclasses, and transformers' ``Conv1D``, whose weight
    is (d_in, d_out).
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

    It is computed from outputs, as the weights may be transposed or quantized. The bias is zero
    meanwhile, in a copy: in low precision W e_c would be lost beside a large one.
    """
    widths, weight = linear_widths(linear), linear.weight
    assert widths is not None
    assert isinstance(weight, torch.Tensor)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    without_bias = _copy(linear)
    bias = dict(linear.named_parameters(recurse=False)).get("bias")
    if bias is not None:
        zeros = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        without_bias.register_parameter("bias", zeros)
    zero = without_bias.forward(torch.zeros(1, widths[0], dtype=dtype, device=weight.device))
    unit = torch.eye(widths[0], dtype=dtype, device=weight.device)
    columns = [without_bias.forward(rows) - zero for rows in unit.split(1024)]
    return torch.cat([column.double().square().sum(-1) for column in columns])


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """The children of a module by name. Unlike torch's, a child with two names has both."""
    modules = module.named_modules(remove_duplicate=False)
    return {name: child for name, child in modules if name and "." not in name}


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The functions that a module with children has as public attributes, by name."""
    if not any(module.children()):
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
        and name != "forward"
    }  # fmt: skip


def trace(module: nn.Module) -> fx.Graph | None:
    """The graph of a module's ``forward``, None if it cannot be traced.

    The state of the random number generators is restored.
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
    """A copy of all modules that shares the parameters."""
    skeleton = _copy(module)
    for name, child in named_children(module).items():
        skeleton.add_module(name, _skeleton(child))
    for name in held_functions(module):
        setattr(skeleton, name, _Function())
    return skeleton


def _copy(module: nn.Module) -> nn.Module:
    """A copy of one module with the same parameters and children."""
    copied: nn.Module = object.__new__(type(module))
    vars(copied).update({name: _own(value) for name, value in vars(module).items()})
    return copied


def _own(value: Any) -> Any:
    """A copy of what code changes in place: lists, sets, dictionaries and their tensors.

    Parameters are kept.
    """
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({k: _own(v) for k, v in value.items() if isinstance(v, torch.Tensor)})
        return copied
    if not isinstance(value, torch.Tensor):
        return copy.copy(value) if isinstance(value, list | set) else value
    if isinstance(value, nn.Parameter) or nn.parameter.is_lazy(value):
        return value
    return value.detach().clone()


class _Tracer(fx.Tracer):
    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Makes symbols of the required arguments; the others keep their defaults."""
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
        """Enters modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if any(m.children()) and linear_widths(m) is None:
            try:
                return m.forward(*args, **kwargs)  # without hooks, unlike the given forward
            except Exception:  # as in trace()
                pass
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Takes conditions on data (mixed precision, empty inputs) as not met."""
        return False
