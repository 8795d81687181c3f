"""Reading files of weights, safetensors or torch, without running any code in them."""

from __future__ import annotations

import argparse
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kat.checksum import verify_checksum
from kat.documents import read_json
from kat.errors import InputError, first_line
from kat.files import open_input
from kat.models.checkpoints.state_dict import canonical
from kat.text import scaled, warn

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy 1 pickles it
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]
"""The globals that unpickle a NumPy scalar. Arrays and objects are not among them."""
_GROWTH = 8
"""How many times larger than its file the contents of an archive may be; weights hardly shrink."""
_ALWAYS = 1 << 24
"""In bytes; contents up to this size are allowed in any case."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights in a ``.safetensors`` or torch file, at the top or under a usual key.

    A safetensors file without a checksum is read with a warning, if the config.json beside it does
    not require one.

    Torch files are read with ``weights_only=True``: no code in them runs. Names are those of
    :func:`~kat.models.checkpoints.state_dict.canonical`.

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
    """Reads weights as :func:`read_state_dict`, without the warning.

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
    with open_input(path) as file, suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > max(_ALWAYS, _GROWTH * path.stat().st_size):
            raise InputError(f"{path} would become {scaled(size, 'B')} when it is unpacked")
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY_SCALARS]):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            content.keys()
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"is not a complete file of torch.save: {first_line(error)}"
        if code:
            reason = f"holds more than weights ({code[1]}), and reading that could run code"
        raise InputError(f"{path} {reason}") from None
    return content
