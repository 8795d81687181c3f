"""State dicts: reading them from files, the names in them, copying them into a model."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.errors import InputError
from kat.text import listing

_NESTED_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training programs keep the weights in a checkpoint; an average comes first."""

_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
"""What DistributedDataParallel, torch.compile and Lightning put in front of every name."""

_PUBLISHED = re.compile(r"\b(numerator|denominator)_v$")
"""The coefficients' names in the second published variant of the layer."""

_NUMPY: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy 1 names it
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]
"""What a number of NumPy's takes to be read; arrays and objects are not among them."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of torch.save's files before version 1.6."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a torch file, bare or under a usual key.

    Torch files are read with ``weights_only=True``: no code in them is ever run. Names are those
    of :func:`canonical`.

    Raises:
        InputError: the file is missing, damaged, holds code, or something else.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    state = canonical(content)
    if not state:
        raise InputError(f"{path} holds no weights")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is not a complete safetensors file: {error}") from None


def read_torch_file(path: Path) -> dict[str, Any]:
    """The mapping that a file of ``torch.save`` holds, read with ``weights_only=True``.

    ``argparse.Namespace`` and NumPy's numbers are let through: checkpoints keep their settings and
    their metrics in them.

    Raises:
        InputError: the file is missing, damaged, foreign, or holds code.
    """
    try:
        if _is_plain_pickle(path):
            raise _refused(path, "is a plain pickle, not a file of torch.save's", _UNPICKLE)
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} is not a readable checkpoint: {error}") from None
    except InputError:
        raise
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _unreadable(path: Path, error: Exception) -> InputError:
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code is None:
        return InputError(
            f"{path} is not a readable checkpoint: it is no complete file of torch.save's; it may"
            " have been cut short, or be a page that was downloaded in its place"
        )
    return _refused(path, f"holds more than weights ({code[1]})", _LOAD)


_LOAD = "torch.load({path!r}, weights_only=False)"
_UNPICKLE = "pickle.load(open({path!r}, 'rb'))"


def _refused(path: Path, what: str, load: str) -> InputError:
    return InputError(
        f"{path} {what}, and is refused: reading it could run code. If you trust its author, save"
        " the weights alone in a Python of your own: look for the mapping of names to tensors in"
        f" what {load.format(path=str(path))} gives (a model's is its .state_dict()), and"
        " torch.save(that, 'weights.pth')"
    )


def _is_plain_pickle(path: Path) -> bool:
    """Whether it begins as pickles do, and not as torch.save's files do, old ones included."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    return start[:1] == b"\x80" and start[1:2] <= b"\x05" and start != _LEGACY


def weight_sets(content: Mapping[str, Any]) -> list[str]:
    """The usual keys under which a checkpoint holds weights; :func:`canonical` takes the first."""
    return [key for key in _NESTED_UNDER if isinstance(content.get(key), Mapping)]


def canonical(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names of the model that they are of.

    They may be nested (``state_dict_ema``, ``model_ema``, ``state_dict``, ``model``, in this
    order) and have the prefixes of wrappers (``module.``); coefficients may be called
    ``numerator_v`` and ``denominator_v``.
    """
    for key in _NESTED_UNDER:
        nested = content.get(key)
        content = nested if isinstance(nested, Mapping) else content
    return {
        published_name(_WRAPPERS.sub("", str(name))): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def published_name(name: str) -> str:
    """The name that a parameter has here: ``weight_numerator`` for ``numerator_v``."""
    return _PUBLISHED.sub(r"weight_\1", name)


def is_coefficient(name: str) -> bool:
    """Whether a parameter of this name holds a rational's coefficients."""
    return name.endswith(("weight_numerator", "weight_denominator"))


def filter_released(content: Mapping[str, Any], model: VisionTransformer) -> dict[str, Tensor]:
    """The weights of a KAT's checkpoint, made to fit a model: timm's ``pretrained_filter_fn``.

    Names are made canonical; position and patch embeddings are resampled where sizes differ. The
    classifier is timm's affair.

    Args:
        content: what the file holds.
        model: the KAT that is to take the weights.

    Raises:
        InputError: they are those of another model; the first mismatches are listed.
    """
    weights = checkpoint_filter_fn(canonical(content), model)
    own = model.state_dict()
    lacking = [name for name in own if is_coefficient(name) and name not in weights]
    if lacking and not any(map(is_coefficient, weights)):
        raise InputError(
            "the file holds no coefficients of rationals, so it is not a KAT's; 'kat convert' makes"
            " a KAT of a ViT"
        )
    # timm adapts these two to other classes and channels after this.
    adapted = [name for name in own if name.startswith("head.") or name == _STEM]
    compared = {name: value for name, value in weights.items() if name not in adapted}
    _check_match(model, compared, "the file", frozenset(adapted))
    return weights


_STEM = "patch_embed.proj.weight"


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    may_lack: frozenset[str] = frozenset(),
) -> None:
    """Copies weights into a model, all or nothing.

    Args:
        model: takes the weights.
        weights: by the names of the model's state dict.
        source: what to call them in an error.
        may_lack: names that may be missing, and then keep their values.

    Raises:
        InputError: missing, unexpected or misshapen entries; the first of each are listed, and
            the model is left as it was.
    """
    _check_match(model, weights, source, may_lack)
    model.load_state_dict(weights, strict=False)


def _check_match(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, may_lack: frozenset[str]
) -> None:
    own = model.state_dict()
    missing = [name for name in own if name not in weights and name not in may_lack]
    unexpected = [name for name in weights if name not in own and name not in may_lack]
    misshapen = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        parts = [
            f"{len(names)} {kind} ({listing(names)})" for kind, names in problems.items() if names
        ]
        raise InputError(f"{source} holds the weights of another model: {'; '.join(parts)}")
