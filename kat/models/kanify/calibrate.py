"""The inputs that activations really see, as the points that their rationals are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.kanify.find import Mlp

Array = NDArray[np.float64]
Run = Callable[[nn.Module, Any], Any]

_KEPT = 2001
"""Order statistics kept of each call of a linear map."""
_QUANTILES, _EVEN = 3601, 400
_MARGIN = 0.1


def run_batch(model: nn.Module, batch: Any) -> Any:
    """``model(**batch)`` for a mapping, ``model(*batch)`` for a tuple or list, else whole."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def seen_inputs(
    model: nn.Module, mlps: list[Mlp], batches: Iterable[Any], run: Run = run_batch
) -> dict[str, Array]:
    """What reaches each activation while the model runs over some batches, without gradients.

    The model is in evaluation mode meanwhile, and then as it was.

    Args:
        model: not kanified yet.
        mlps: whose activations.
        batches, run: ``run(model, batch)`` is called for each.

    Returns:
        By the activation's name, increasing points: nine tenths are quantiles of its inputs, so
        that a sum over the points counts them as often as they come; one tenth lies evenly over
        their range and a tenth of it more on both sides, to keep hold of what is rare.

    Raises:
        InputError: no batches, an activation that they do not reach, inputs that are not finite.
    """
    kept: dict[str, list[Array]] = {mlp.first: [] for mlp in mlps}
    count = 0
    with _watched(model, kept):
        for batch in batches:
            run(model, batch)
            count += 1
    if not count:
        raise InputError("calibration has no batches; give an iterable of the model's inputs")
    for mlp in mlps:
        if not kept[mlp.first]:
            raise InputError(
                f"{mlp.activation} is not reached by the calibration batches; leave it out with"
                " only=, or give batches that reach it"
            )
    return {mlp.activation: _points(np.concatenate(kept[mlp.first])) for mlp in mlps}


@contextmanager
def _watched(model: nn.Module, kept: dict[str, list[Array]]) -> Iterator[None]:
    """Evaluation mode, with order statistics of the linear maps' outputs added to ``kept``."""
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    handles = [
        model.get_submodule(name).register_forward_hook(_keeping(name, values))
        for name, values in kept.items()
    ]
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # it would bypass the linear maps
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _keeping(name: str, values: list[Array]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(linear: nn.Module, args: Any, y: Tensor) -> None:
        if y.is_meta:
            raise InputError("calibration needs weights, and the model is on the meta device")
        ordered = y.detach().flatten().float().sort().values
        if not (len(ordered) and ordered[[0, -1]].isfinite().all()):
            raise InputError(f"calibration: the output of {name} is empty or not finite")
        places = torch.linspace(0, len(ordered) - 1, _KEPT, device=y.device).long()
        values.append(ordered[places].double().cpu().numpy())

    return hook


def _points(seen: Array) -> Array:
    ordered = np.sort(seen)
    quantiles = ordered[np.linspace(0, len(ordered) - 1, _QUANTILES).astype(int)]
    margin = _MARGIN * (ordered[-1] - ordered[0]) + 1e-3
    even = np.linspace(ordered[0] - margin, ordered[-1] + margin, _EVEN)
    return np.unique(np.concatenate([quantiles, even]))
