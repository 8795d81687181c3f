"""``.pt2`` files: a ``torch.export`` program, which loads in any PyTorch program, without kat."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from kat.deploy.export_record import KEY, PICTURES, ExportRecord
from kat.deploy.model_forms import size_step
from kat.errors import InputError
from kat.files import open_input
from kat.models import ModelRecord
from kat.models.dense import task_of
from kat.ops import decompositions


def trace(model: nn.Module, record: ModelRecord) -> ExportedProgram:
    """Return the program of a frozen model, for any batch size.

    If the model is resizable, the program takes images of any size; with its preprocessing, one
    picture of any size. It does not contain the paths of the model's source files.
    """
    images = torch.zeros((2, *record.input_size))  # torch.export would specialize on a batch of 1
    dynamic: dict[int, Any] = {0: Dim("batch", min=1)}
    step = size_step(model)
    if step is not None:
        dynamic |= {2: step[0] * Dim("rows"), 3: step[1] * Dim("columns")}
    if task_of(model) == PICTURES:
        images = torch.zeros((50, 70, 3), dtype=torch.uint8)
        dynamic = {0: Dim("height"), 1: Dim("width")}
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.export(model, (images,), dynamic_shapes=(dynamic,))
        if any(str(node.target).startswith("kat.") for node in program.graph.nodes):
            program = program.run_decompositions(decompositions())
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return program


def write(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Write the program, with the record as the extra file ``kat``."""
    content = io.BytesIO()  # PyTorch's own writer of files ends the process if the disk is full
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, content, extra_files={KEY: record.to_json()})
    path.write_bytes(content.getbuffer())


def read(path: Path) -> tuple[Callable[..., Any], ExportRecord]:
    """Return the program as a function of the images, and the record.

    A program is code: do not call this for files that you do not trust.

    Raises:
        InputError: the file does not exist, is damaged, or was not written by 'kat export'.
    """
    record = read_record(path)
    with warnings.catch_warnings(action="ignore"):
        module = torch.export.load(path).module()
    return module, record


def read_record(path: Path) -> ExportRecord:
    """Return the record; no code in the file runs."""
    try:
        with open_input(path) as file, zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                archive.read(damaged)  # raises BadZipFile with its name
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")]
            text = archive.read(names[0]) if names else None
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is not a complete .pt2 file: {error}") from None
    return ExportRecord.from_json(text, str(path))
