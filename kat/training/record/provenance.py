"""Provenance of results: commit, versions, threads, processor and kernel of the rationals."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output

import torch

from kat.machine import processor
from kat.ops.operators import kernel_name
from kat.version import __version__

PROVENANCE = ("commit", "torch", "threads", "processor", "kernel")
"""The names in :func:`provenance`: columns of tables of runs."""


def provenance(device: torch.device) -> dict[str, str]:
    """Return what made a result: a text for each of :data:`PROVENANCE`.

    The processor is the name of the GPU or the CPU, the kernel that of the rationals there.

    Args:
        device: trains the model.

    Examples:
        >>> import torch
        >>> from kat.training.record.provenance import provenance
        >>> sorted(provenance(torch.device("cpu")))
        ['commit', 'kernel', 'processor', 'threads', 'torch']
    """
    return {
        "commit": commit(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "kernel": kernel_name(device),
    }


@cache
def commit() -> str:
    """Return the commit of the checkout that the library is imported from, ``+`` if files differ.

    Without git or such a checkout it is the version of the library. Files that git does not track
    do not count; nor does a repository of another project in which the library is installed.
    """
    # --git-dir takes no repository further up, nor the one that the environment of a hook names
    try:
        for command in (
            "git --git-dir=.git ls-files --error-unmatch kat",
            "git --git-dir=.git describe --always --abbrev=40 --exclude=* --dirty=+",
        ):
            found = check_output(
                command.split(),
                cwd=Path(__file__).parents[3],
                stderr=DEVNULL,
                text=True,
                timeout=20,
            )
    except (OSError, SubprocessError):
        return __version__
    return found.strip()
