"""``no_weight_decay()`` of models that get rationals: timm asks it which parameters to spare."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from kat.nn import rational_parameter_names

_NAME = "no_weight_decay"


def update_no_weight_decay(model: nn.Module) -> None:
    """Add the rationals' parameters to the names in ``model.no_weight_decay()``.

    It is called after rationals or their parameters were added or removed.
    """
    own: Any = getattr(model, _NAME, ())
    names = set(own() if callable(own) else own)
    coefficients = rational_parameter_names(model)
    if not coefficients <= names:
        setattr(model, _NAME, partial(set, names | coefficients))
