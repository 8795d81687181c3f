"""The CPU kernel as a caller sees it: whether it can be had, and loaded anew."""

from __future__ import annotations

import importlib
import os
import shutil

import torch

import kat
from kat.errors import BackendUnavailable
from kat.ops.cpu import build as cpu_build
from kat.ops.cpu import kernel as cpu


def problem() -> str:
    """Why the CPU kernel cannot be had, or nothing."""
    try:
        kat.rational(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 1), impl="cpu")
    except BackendUnavailable as error:
        return str(error)
    return ""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which has to build the kernel then."""
    return any(map(shutil.which, os.environ.get("CXX", "").split()[:1] or cpu_build.COMPILERS))


def load_again() -> None:
    """Has the next call find the kernel anew, by the environment as it is now."""
    importlib.reload(cpu)
