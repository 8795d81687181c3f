"""A model as a ``torch.export`` program: one graph of plain PyTorch operations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from kat.errors import InputError
from kat.models import ModelRecord, build_model
from kat.models.dense import DenseModel

_TRACED_BATCH = 2
"""A batch of 1 would be taken for a constant."""


def make_resizable(model: nn.Module, record: ModelRecord) -> nn.Module:
    """The same model with ``dynamic_img_size=True``: it resamples its position embeddings.

    Raises:
        InputError: the architecture has no such option.
    """
    if isinstance(model, DenseModel):
        raise InputError(f"{record.architecture} can be exported for images of one size alone")
    resizable = build_model(record, dynamic_img_size=True)
    resizable.load_state_dict(model.state_dict())
    return resizable.eval()


def size_step(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) that image sides must be multiples of; None where the size is fixed."""
    if not getattr(model, "dynamic_img_size", False):
        return None
    patch_embed: Any = model.patch_embed
    height, width = patch_embed.patch_size
    return height, width


def trace(model: nn.Module, record: ModelRecord) -> ExportedProgram:
    """The program of a frozen model, for batches of any size, and images if it is resizable.

    Nothing in it says where on this machine the model's source is.

    Raises:
        InputError: ``torch.export`` cannot trace the model.
    """
    images = torch.zeros(_TRACED_BATCH, *record.input_size)
    free: dict[int, Any] = {0: Dim("batch", min=1)}
    step = size_step(model)
    if step is not None:
        free |= {2: step[0] * Dim("rows"), 3: step[1] * Dim("columns")}
    try:
        with quiet_warnings():
            program = torch.export.export(model, (images,), dynamic_shapes=(free,))
    except Exception as error:  # torch.export raises many kinds, for whatever a model may do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"torch.export cannot trace {record.architecture}: {reason}") from None
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return program


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Hides the warnings that torch's exporters give about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
