"""The named functions to fit, of arrays: those of :mod:`kat.nn.functions`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from kat.nn import functions

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


def _of_arrays(function: functions.Function) -> Function:
    def of_array(x: Array) -> Array:
        values = function(torch.from_numpy(np.array(x, dtype=np.float64, order="C")))
        return np.asarray(values.numpy())

    return of_array


FUNCTIONS: dict[str, Function] = {
    name: _of_arrays(function) for name, function in functions.FUNCTIONS.items()
}
"""The functions that can be fitted by name, on float64 arrays.

Examples:
    >>> import numpy as np
    >>> from kat.nn.fitting import FUNCTIONS
    >>> float(FUNCTIONS["silu"](np.float64(1)).round(4))
    0.7311
"""
