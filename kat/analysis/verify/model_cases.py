"""The cases of a trained model: its coefficients, over the inputs of its rationals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kat.analysis.inspect.images import normalized, open_images
from kat.analysis.inspect.rational_inputs import rationals_of, watch_inputs
from kat.analysis.verify.cases import DTYPES, Case, make_case
from kat.data import DataConfig
from kat.models import ModelRecord, load_model
from kat.nn import GroupRational

_POINTS = 16
_IMAGES, _NOISE = 128, (2, 32)
"""The number of images of a dataset; the number of batches of noise, and their size."""


def cases_of_checkpoint(
    checkpoint: Path, data: DataConfig | None, dtypes: Sequence[str]
) -> tuple[list[Case], dict[str, tuple[float, float]]]:
    """The cases of a stored model, and the range of the inputs of each of its rational layers.

    Args:
        checkpoint: what :func:`kat.models.load_model` takes.
        data: the dataset whose validation images the model runs on; None: standard normal noise.
        dtypes: names of dtypes.

    Raises:
        InputError: the model or the data cannot be used.
    """
    model, record = load_model(checkpoint)
    batches = _noise(record)
    if data is not None:
        images = open_images(data, model, record, _IMAGES, str(checkpoint))
        batches = normalized(images.batches(), record)
    inputs = record_inputs(model, batches)
    ranges = {seen.layer: (float(seen.low.min()), float(seen.high.max())) for seen in inputs}
    return list(model_cases(model, inputs, dtypes)), ranges


def _noise(record: ModelRecord) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    batches, size = _NOISE
    for _ in range(batches):
        yield torch.randn(size, *record.input_size, generator=generator)


@dataclass(frozen=True)
class Inputs:
    """The smallest and largest input of each group of a rational layer: (groups,) each."""

    layer: str
    low: np.ndarray
    high: np.ndarray


def record_inputs(model: nn.Module, batches: Iterable[Tensor]) -> list[Inputs]:
    """Runs a model, and records the range of the inputs of its rationals.

    Args:
        model: with :class:`kat.GroupRational` layers.
        batches: inputs of the model.

    Raises:
        InputError: see :func:`watch_inputs`.
    """
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        least, most = x.double().amin(1), x.double().amax(1)
        low[name] = torch.minimum(low.get(name, least), least)
        high[name] = torch.maximum(high.get(name, most), most)

    watch_inputs(model, batches, note)
    names = rationals_of(model)
    return [Inputs(name, low[name].cpu().numpy(), high[name].cpu().numpy()) for name in names]


def model_cases(
    model: nn.Module, inputs: Sequence[Inputs], dtypes: Sequence[str]
) -> Iterator[Case]:
    """A case for each group of each rational layer and each dtype, x evenly over its inputs."""
    for seen in inputs:
        layer = model.get_submodule(seen.layer)
        assert isinstance(layer, GroupRational)
        a, b = (
            weight.detach().double().cpu().expand(layer.num_groups, -1).numpy()
            for weight in (layer.weight_numerator, layer.weight_denominator)
        )
        for group in range(layer.num_groups):
            name = f"{seen.layer} group {group}"
            between = np.linspace(seen.low[group], seen.high[group], _POINTS)
            for dtype in dtypes:
                limit = torch.finfo(DTYPES[dtype]).max
                x = np.clip(between, -limit, limit)[None]
                where = f"{x.min():.3g}..{x.max():.3g}"
                yield make_case(
                    layer.form, dtype, name, a[group], b[group], x, [where], special=False
                )
