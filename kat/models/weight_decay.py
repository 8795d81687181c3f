"""``no_weight_decay()`` of models that get rationals: timm asks it which parameters to spare."""

from __future__ import annotations

from typing import Any

from torch import nn

from kat.nn import rational_parameter_names

_NAME = "no_weight_decay"


class _Names:
    """A function that returns fixed names; it is copied and pickled with the model.

    Args:
        names: of parameters.
        before: the attribute that the model had in its place, None if there was none.
    """

    def __init__(self, names: set[str], before: Any) -> None:
        self.names = names
        self.before = before

    def __call__(self) -> set[str]:
        return set(self.names)


def update_no_weight_decay(model: nn.Module) -> None:
    """Add the rationals' parameters to the names in ``model.no_weight_decay()``.

    It is called whenever rationals or their parameters have come or gone.
    """
    before = vars(model).pop(_NAME, None)
    if isinstance(before, _Names):
        before = before.before
    if before is not None:
        setattr(model, _NAME, before)
    own: Any = getattr(model, _NAME, ())
    names = set(own() if callable(own) else own)
    coefficients = rational_parameter_names(model)
    if not coefficients <= names:
        setattr(model, _NAME, _Names(names | coefficients, before))
