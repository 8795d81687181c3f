"""The inputs of a model's rationals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.nn import GroupRational, rationals

See = Callable[[str, Tensor], None]


def rationals_of(model: nn.Module) -> dict[str, GroupRational]:
    """The rational layers of a model by name.

    Raises:
        InputError: there is none.
    """
    layers = rationals(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no rational: it is no KAT")
    return layers


@torch.no_grad()
def watch_inputs(model: nn.Module, batches: Iterable[Tensor], see: See) -> None:
    """Runs a model, and passes on the inputs of each of its rationals.

    Args:
        model: with :class:`kat.GroupRational` layers.
        batches: inputs of the model.
        see: called for each batch with the name of a layer and its input by group, (groups, k).

    Raises:
        InputError: the model has no rational, or one of them gets no input, or one that is not
            finite.
    """
    layers = rationals_of(model)
    reached = set()

    def note(name: str, layer: GroupRational, x: Tensor) -> None:
        if not x.isfinite().all():
            raise InputError(f"the inputs of {name} are not finite")
        reached.add(name)
        grouped = x.movedim(layer.channel_dim, 0).unflatten(0, (layer.num_groups, -1))
        see(name, grouped.flatten(1))

    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: note(name, m, args[0]))
        for name, layer in layers.items()
    ]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in reached:
            raise InputError(f"{name} got no input: there are no images, or the layer is not used")
