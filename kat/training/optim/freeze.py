"""Freeze parts of a model: they are not trained, and run in eval mode."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from timm.models import group_parameters
from torch import nn

from kat.errors import InputError
from kat.models import rational_parameter_names

BACKBONE, RATIONALS = "backbone", "rationals"


def freeze(model: nn.Module, parts: str | int | None) -> None:
    """Freeze parts of a model: disables their gradients and puts them into eval mode.

    ``model.train()`` resets the mode; call :func:`frozen_to_eval` after it.

    Args:
        model: a timm model.
        parts: comma-separated parts: ``backbone`` (all but the head), ``rationals`` (all rational
            coefficients), a number n (the embeddings and the first n blocks), or patterns of
            parameter names, e.g. ``blocks.*.attn.*``. None freezes nothing.

    Raises:
        InputError: the model does not have a part.
    """
    if parts is None:
        return
    chosen: set[str] = set()
    for part in str(parts).split(","):
        chosen |= _names(model, part.strip())
    for name, parameter in model.named_parameters():
        if name in chosen:
            parameter.requires_grad = False
    frozen_to_eval(model)


def frozen_to_eval(model: nn.Module) -> None:
    """Put every module whose parameters are all frozen into eval mode, with its submodules.

    Drop path and dropout are then off in a frozen block, and running statistics do not change. A
    module without parameters follows its parent.
    """
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _names(model: Any, part: str) -> set[str]:
    """Return the parameter names of a part."""
    names = [name for name, _ in model.named_parameters()]
    if part.isdecimal():
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        return {name for name, layer in layers.items() if layer <= int(part)}
    if part == BACKBONE:
        heads = model.get_classifier()  # a tuple in models with two, such as distilled DeiTs
        heads = nn.ModuleList(heads if isinstance(heads, tuple | list) else [heads])
        head = {id(parameter) for parameter in heads.parameters()}
        found = {name for name, p in model.named_parameters() if id(p) not in head}
    elif part == RATIONALS:
        found = rational_parameter_names(model)
    else:
        found = {name for name in names if fnmatchcase(name, part)}
    if not found:
        raise InputError(
            f"model.freeze: {part!r} is not a part of the model; give {BACKBONE}, {RATIONALS}, a"
            f" number of blocks, or a pattern of parameter names such as {names[-1]!r}"
        )
    return found
