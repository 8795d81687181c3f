"""A forward pass layer by layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from kat.errors import InputError, first_line
from kat.text import dimensions

Call = Callable[[str, nn.Module, Tensor, Tensor], None]


def run_by_layer(
    model: nn.Module,
    x: Tensor,
    read: Callable[[], Counter[str]],
    called: Call = lambda name, module, x, y: None,
) -> dict[str, Counter[str]]:
    """Runs a model, and attributes the growth of counters to layers, not to those around them.

    The hooks are global: a hook on the modules of a GR-KAN layer would keep it from being fused.

    Args:
        model: takes x.
        x: its input.
        read: returns counters that grow as the model runs.
        called: called for every layer that maps a tensor to a tensor, with its name, the module,
            its input and its output.

    Returns:
        By name of the layer, ``""`` for the model itself, how much the counters grew while it was
        the innermost layer that ran.

    Raises:
        InputError: the model fails on this input.
    """
    names = {module: name for name, module in model.named_modules()}
    running = [""]
    grown: dict[str, Counter[str]] = defaultdict(Counter)
    last = read()

    def settle() -> None:
        nonlocal last
        now = read()
        grown[running[-1]] += now - last
        last = now

    def enter(module: nn.Module, inputs: Any) -> None:
        settle()
        running.append(names.get(module, running[-1]))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        settle()
        name = running.pop()
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            called(name, module, inputs[0], output)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        model(x)
    except Exception as error:
        kind, shape = type(model).__name__, dimensions(x.shape[1:])
        raise InputError(f"{kind} fails on an input of {shape}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    settle()
    return dict(grown)
