"""Tracing a model to a ``torch.export`` program: one graph of plain PyTorch operations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from kat.deploy.resizable import size_step
from kat.errors import InputError, first_line
from kat.models import ModelRecord
from kat.ops import decompositions

_TRACED_BATCH = 2
"""torch.export would specialize on a batch of 1."""


def trace(model: nn.Module, record: ModelRecord) -> ExportedProgram:
    """The program of a frozen model, for any batch size, and any image size if it is resizable.

    It does not contain the paths of the model's source files.

    Raises:
        InputError: ``torch.export`` cannot trace the model.
    """
    images = torch.zeros(_TRACED_BATCH, *record.input_size)
    dynamic: dict[int, Any] = {0: Dim("batch", min=1)}
    step = size_step(model)
    if step is not None:
        dynamic |= {2: step[0] * Dim("rows"), 3: step[1] * Dim("columns")}
    try:
        with quiet_warnings():
            program = torch.export.export(model, (images,), dynamic_shapes=(dynamic,))
            if any(str(node.target).startswith("kat.") for node in program.graph.nodes):
                program = program.run_decompositions(decompositions())
    except Exception as error:  # torch.export raises many kinds, depending on the model
        raise InputError(
            f"torch.export cannot trace {record.architecture}: {first_line(error)}"
        ) from None
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return program


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Hides the warnings of torch's exporters about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
