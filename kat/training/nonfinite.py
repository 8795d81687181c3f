"""Refuse weights and outputs of a model that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from kat.errors import InputError


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a value that is not finite, or ""."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            return name
    return ""


def check_weights(source: object, model: nn.Module) -> None:
    """Refuse weights that are not finite, where the output of the model hides them.

    Args:
        source: path of the model, or a name for it.
        model: the model.

    Raises:
        InputError: a weight is not finite.
    """
    name = first_nonfinite(dict(model.named_parameters()))
    if name:
        raise InputError(
            f"the weights of {source} are not finite, first in {name}: the file is damaged or the"
            " training diverged"
        )


def finite_output(source: object, model: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
    """Run a forward pass and return its output.

    Args:
        source: path of the model, or a name for it.
        model: the model.
        forward: runs the model.

    Raises:
        InputError: the output is not finite.
    """
    output = forward()
    if not output.isfinite().all():
        check_weights(source, model)
        raise InputError(
            f"the logits of {source} are not finite, but its weights are: the training diverged"
        )
    return output
