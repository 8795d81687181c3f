"""State dicts: the names in them, and loading them into a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError
from kat.text import listing

STEM = "patch_embed.proj.weight"
"""The name of a ViT's patch embedding."""

_NESTED_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""The keys under which training programs store weights; the EMA comes first."""

_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
"""The prefixes that DistributedDataParallel, torch.compile and Lightning add to every name."""

_AVERAGED = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel counts."""
_OTHER_VARIANT = re.compile(r"\b(numerator|denominator)_v$")
"""The names of the coefficients in the second published variant of the layer."""


def canonical(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by the names that the model itself gives them.

    They may be nested under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, tried
    in this order, and have the prefixes of wrappers (``module.``). Coefficients may be called
    ``numerator_v`` and ``denominator_v``. The count of torch's ``AveragedModel`` is left out.
    """
    for key in _NESTED_UNDER:
        nested = content.get(key)
        content = nested if isinstance(nested, Mapping) and nested else content
    return {
        published_name(_WRAPPERS.sub("", str(name))): value
        for name, value in content.items()
        if isinstance(value, Tensor) and name != _AVERAGED
    }


def published_name(name: str) -> str:
    """The name of a parameter in the first published variant: ``weight_numerator`` for
    ``numerator_v``."""
    return _OTHER_VARIANT.sub(r"weight_\1", name)


def is_coefficient(name: str) -> bool:
    """Return True if a parameter of this name holds the coefficients of a rational."""
    return name.endswith(("weight_numerator", "weight_denominator"))


def filter_released(content: Mapping[str, Any], model: VisionTransformer) -> dict[str, Tensor]:
    """Fits the weights of a KAT's checkpoint to a model: timm's ``pretrained_filter_fn``.

    Names are made canonical. Position and patch embeddings are resampled to the sizes of the
    model. The classifier is left to timm.

    Args:
        content: the content of the file.
        model: the KAT that the weights are for.

    Raises:
        InputError: the weights are those of another model; lists the first mismatches.
    """
    weights = checkpoint_filter_fn(canonical(content), model)
    own = model.state_dict()
    if any(map(is_coefficient, own)) and not any(map(is_coefficient, weights)):
        raise InputError(
            "the file has no coefficients of rationals, so it is not a KAT's; 'kat convert' makes"
            " a KAT of a ViT"
        )
    # timm adapts these to other classes and channels after this function.
    compared = {name: value for name, value in weights.items() if not _is_adapted(name)}
    _check_match(model, compared, "the file", frozenset(filter(_is_adapted, own)))
    return weights


def _is_adapted(name: str) -> bool:
    return name.startswith("head.") or name == STEM


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    may_lack: frozenset[str] = frozenset(),
) -> None:
    """Copies weights into a model, all or none.

    Args:
        model: to copy into.
        weights: by the names of the model's state dict.
        source: what to call them in an error.
        may_lack: names that may be missing, and then keep their values.

    Raises:
        InputError: entries are missing, unexpected, of another shape, or not of floating-point
            numbers where the model has them; lists the first of each. The model is unchanged.

    Examples:
        >>> import kat
        >>> from kat.models import load_weights
        >>> trained, fresh = (kat.models.create_model("kat_micro", depth=1) for _ in range(2))
        >>> load_weights(fresh, trained.state_dict(), source="the trained model")
    """
    _check_match(model, weights, source, may_lack)
    model.load_state_dict(weights, strict=False)


def _check_match(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, may_lack: frozenset[str]
) -> None:
    own = model.state_dict()
    common = [name for name in own if name in weights]
    problems = {
        "missing": [name for name in own if name not in weights and name not in may_lack],
        "unexpected": [name for name in weights if name not in own and name not in may_lack],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
            for name in common
            if weights[name].shape != own[name].shape
        ],
        "not of floating-point numbers": [
            name
            for name in common
            if own[name].is_floating_point() and not weights[name].is_floating_point()
        ],
    }
    parts = [f"{len(found)} {kind} ({listing(found)})" for kind, found in problems.items() if found]
    if parts:
        raise InputError(f"{source} holds the weights of another model: {'; '.join(parts)}")
