"""Weights: reading files, safetensors or torch, without running code in them; names; loading."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from kat.documents import read_json
from kat.errors import InputError
from kat.files import open_input
from kat.models.checkpoints.checksum import verify_checksum
from kat.text import listing, scaled, warn

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy 1 pickles it
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]
"""The globals that unpickle a NumPy scalar. Arrays and objects are not among them."""
_GROWTH = 8
"""The size of an archive's contents in sizes of its file, at most; weights hardly shrink."""

STEM = "patch_embed.proj.weight"
"""The name of a ViT's patch embedding."""

_NESTED_UNDER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""The keys under which training programs store weights; the EMA comes first."""

_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
"""The prefixes that DistributedDataParallel, torch.compile and Lightning add to every name."""

_OTHER_VARIANT = re.compile(r"\b(numerator|denominator)_v$")
"""The names of the coefficients in the second published variant of the layer."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a ``.safetensors`` or torch file, at the top or under a usual key.

    A safetensors file without a checksum is read with a warning, if the config.json beside it does
    not require one.

    Torch files are read with ``weights_only=True``: no code in them runs. Names are as of
    :func:`~kat.models.checkpoints.weight_files.canonical`.

    Raises:
        InputError: the file is missing or damaged (its checksum, if it has one, does not match),
            or contains code.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import read_state_dict
        >>> weights = read_state_dict(Path("runs/digits/model.safetensors"))
        >>> weights["blocks.0.mlp.act2.weight_numerator"].shape
        torch.Size([1, 6])
    """
    state, _, checksum = read_weights(Path(path))
    warn_without(checksum, path)
    return state


def read_weights(path: Path) -> tuple[dict[str, Tensor], Any, str | None]:
    """Read weights as :func:`read_state_dict`, without the warning.

    Returns:
        The tensors by name; the record in the config.json beside the file, or None; and the
        checksum, empty if the file has none. Of a torch file both are None.
    """
    record = checksum = None
    if path.suffix == ".safetensors":
        checksum = verify_checksum(path)
        try:
            content: Any = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"{path} is not a complete safetensors file: {error}") from None
        record = _record_beside(path, checksum)
    else:
        content = read_torch_file(path)
    return canonical(content), record, checksum


def _record_beside(weights: Path, checksum: str) -> Any:
    """Return the record beside weights, with their checksum if kat wrote it; None without one.

    Other weights in the folder need no checksum, and neither do weights that transformers saved: it
    copies all entries of a configuration.
    """
    path = weights.with_name(CONFIG)
    content = read_json(path) if path.is_file() else None
    while isinstance(content, dict) and content.get("sha256", checksum) != checksum:
        if weights.name != WEIGHTS or "transformers_version" in content:
            break
        if "previous" not in content:
            raise InputError(
                f"{weights} does not have the checksum that {path} names: it is damaged, or another"
                " program has written it; put back a copy, or, if it is as it is meant to be,"
                f" remove sha256 from {path.name}"
            )
        content = content["previous"]
    return content


def warn_without(checksum: str | None, path: str | Path) -> None:
    """Warn of a safetensors file without a checksum, once it is known to be of use."""
    if checksum == "":
        warn(f"warning: {path} has no checksum, so damage to its weights would not be noticed")


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read the dictionary in a file of ``torch.save``, with ``weights_only=True``.

    ``argparse.Namespace`` and NumPy scalars are allowed: checkpoints keep their settings and
    metrics in them.

    Raises:
        InputError: the file is missing or damaged, contains code, would fill the memory, or is
            something else.
    """
    try:
        size = _unpacked_size(path)
        if size > _GROWTH * path.stat().st_size:
            raise InputError(f"{path} would become {scaled(size, 'B')} when it is unpacked")
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY_SCALARS]):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            content.keys()
    except InputError:
        raise
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = "is not a complete file of torch.save, as the .ckpt or .pth file of a model is"
        if code:
            reason = f"holds more than weights ({code[1]}), and reading that could run code"
        raise InputError(f"{path} {reason}") from None
    return content


def _unpacked_size(path: Path) -> int:
    """Return the bytes in an archive; 0 for a file that torch does not open as an archive."""
    with open_input(path) as file:
        if file.read(4) != b"PK\x03\x04":  # as torch recognizes an archive
            return 0
        with zipfile.ZipFile(file) as archive:
            return sum(member.file_size for member in archive.infolist())


def canonical(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by the names that the model itself gives them.

    They may be nested under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, tried
    in this order, and have the prefixes of wrappers (``module.``). Coefficients may be called
    ``numerator_v`` and ``denominator_v``. The count of torch's ``AveragedModel``, ``n_averaged``,
    is left out.
    """
    for key in _NESTED_UNDER:
        nested = content.get(key)
        content = nested if isinstance(nested, Mapping) and nested else content
    return {
        published_name(_WRAPPERS.sub("", str(name))): value
        for name, value in content.items()
        if isinstance(value, Tensor) and name != "n_averaged"
    }


def published_name(name: str) -> str:
    """Return the first published variant's name: ``weight_numerator`` for ``numerator_v``."""
    return _OTHER_VARIANT.sub(r"weight_\1", name)


def is_coefficient(name: str) -> bool:
    """Return True if a parameter of this name holds the coefficients of a rational."""
    return name.endswith(("weight_numerator", "weight_denominator"))


def filter_released(content: Mapping[str, Any], model: VisionTransformer) -> dict[str, Tensor]:
    """Fit the weights of a KAT's checkpoint to a model: timm's ``pretrained_filter_fn``.

    Names are made canonical. Position and patch embeddings are resampled to the sizes of the
    model. The classifier is left to timm.

    Args:
        content: the content of the file.
        model: the KAT that the weights are for.

    Raises:
        InputError: the weights are of another model; lists the first mismatches.
    """
    weights = checkpoint_filter_fn(canonical(content), model)
    # timm adapts these to other classes and channels after this function.
    compared = {name: value for name, value in weights.items() if not _is_adapted(name)}
    check_match(model, compared, "the file", frozenset(filter(_is_adapted, model.state_dict())))
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
    """Copy weights into a model, all or none.

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
    check_match(model, weights, source, may_lack)
    model.load_state_dict(weights, strict=False)


def check_match(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    may_lack: frozenset[str] = frozenset(),
) -> None:
    """Check that weights fit a model, which may be on the device ``meta``.

    See :func:`load_weights`.
    """
    own = model.state_dict()
    missing, shapes, integers = [], [], []
    for name, value in own.items():
        given = weights.get(name)
        if given is None:
            missing.append(name)
        elif given.shape != value.shape:
            shapes.append(f"{name} {tuple(given.shape)} for {tuple(value.shape)}")
        elif value.is_floating_point() and not given.is_floating_point():
            integers.append(name)
    problems = {
        "missing": [name for name in missing if name not in may_lack],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": shapes,
        "not of floating-point numbers": integers,
    }
    parts = [f"{len(found)} {kind} ({listing(found)})" for kind, found in problems.items() if found]
    if parts:
        raise InputError(f"{source} holds the weights of another model: {'; '.join(parts)}")
