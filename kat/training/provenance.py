"""Provenance of results: the commit of the library, the processor, the kernel of the rationals."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output

import torch

from kat.machine import processor
from kat.ops.operators import kernel_name
from kat.version import __version__

PROVENANCE = ("commit", "processor", "kernel")
"""The names in :func:`provenance`: columns of tables of runs."""


def provenance(device: torch.device) -> dict[str, str]:
    """Return the :func:`commit`, the name of the GPU or the CPU, and its kernel of the rationals.

    Args:
        device: trains the model.

    Examples:
        >>> import torch
        >>> from kat.training.provenance import provenance
        >>> sorted(provenance(torch.device("cpu")))
        ['commit', 'kernel', 'processor']
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"commit": commit(), "processor": name, "kernel": kernel_name(device)}


@cache
def commit() -> str:
    """Return the commit of the checkout that the library is imported from, ``+`` if files differ.

    Without git or such a checkout it is the version of the library. Files that git does not track
    do not count; nor does a repository of another project in which the library is installed.
    """
    # --git-dir takes no repository further up, nor the one that the environment of a hook names
    git = ["git", "-C", str(Path(__file__).parents[2]), "--git-dir=.git"]
    described = "describe --always --abbrev=40 --exclude=* --dirty=+"
    try:
        for command in ("ls-files --error-unmatch kat", described):
            found = check_output([*git, *command.split()], stderr=DEVNULL, text=True, timeout=20)
    except (OSError, SubprocessError):
        return __version__
    return found.strip()
