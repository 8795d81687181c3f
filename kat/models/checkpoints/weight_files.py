"""Reading files of weights, safetensors or torch, without running any code in them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kat.checksum import verify_checksum
from kat.documents import read_json
from kat.errors import InputError
from kat.files import open_input
from kat.models.checkpoints.archives import check_archive
from kat.models.checkpoints.state_dict import canonical
from kat.text import warn

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy 1 pickles it
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]
"""The globals that unpickle a NumPy scalar. Arrays and objects are not among them."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a file of ``torch.save`` before version 1.6."""

_LOAD = "torch.load({path!r}, weights_only=False)"
_UNPICKLE = "pickle.load(open({path!r}, 'rb'))"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights in a ``.safetensors`` or torch file, at the top or under a usual key.

    A safetensors file without a checksum is read with a warning, if the config.json beside it does
    not require one.

    Torch files are read with ``weights_only=True``: no code in them runs. Names are those of
    :func:`~kat.models.checkpoints.state_dict.canonical`.

    Raises:
        InputError: the file is missing or damaged (its checksum, if it has one, does not match),
            contains code, or holds no weights.

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
    """Reads weights as :func:`read_state_dict`, without the warning.

    Returns:
        The tensors by name; the record in the config.json beside the file, or None; and the
        checksum, empty if the file has none. Of a torch file both are None.
    """
    checksum = verify_checksum(path) if path.suffix == ".safetensors" else None
    content = read_torch_file(path) if checksum is None else _read_safetensors(path)
    state = canonical(content)
    if not state:
        raise InputError(f"{path} holds no weights")
    return state, None if checksum is None else _record_beside(path, checksum), checksum


def _record_beside(weights: Path, checksum: str) -> Any:
    """The record beside weights, which names their checksum if kat wrote it; None without one.

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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is not a complete safetensors file: {error}") from None


def warn_without(checksum: str | None, path: str | Path) -> None:
    """Warns of a safetensors file without a checksum, once it is known to be of use."""
    if checksum == "":
        warn(f"warning: {path} has no checksum, so damage to its weights would not be noticed")


def read_torch_file(path: Path) -> dict[str, Any]:
    """Reads the dictionary in a file of ``torch.save``, with ``weights_only=True``.

    ``argparse.Namespace`` and NumPy scalars are allowed: checkpoints keep their settings and
    metrics in them.

    Raises:
        InputError: the file is missing or damaged, contains code, would fill the memory, or is
            something else.
    """
    try:
        if _is_plain_pickle(path):
            raise _unsafe(path, "is a plain pickle, not a file of torch.save", _UNPICKLE)
        check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY_SCALARS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} is not a readable checkpoint: {error}") from None
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file begins like a pickle, and unlike any file of ``torch.save``, old or new."""
    with open_input(path) as file:
        start = file.read(len(_LEGACY))
    return start[:1] == b"\x80" and start[1:2] <= b"\x05" and start != _LEGACY


def _unreadable(path: Path, error: Exception) -> InputError:
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code is not None:
        return _unsafe(path, f"holds more than weights ({code[1]})", _LOAD)
    return InputError(
        f"{path} is not a readable checkpoint: it is not a complete file of torch.save; it may be"
        " truncated, or be a web page that was downloaded in its place"
    )


def _unsafe(path: Path, problem: str, load: str) -> InputError:
    return InputError(
        f"{path} {problem}. It is refused, because reading it could run code. If you trust its"
        f" author, open it yourself with {load.format(path=str(path))}, find the mapping of names"
        " to tensors in it (for a model, its .state_dict()), and save that alone with"
        " torch.save(mapping, 'weights.pth')"
    )
