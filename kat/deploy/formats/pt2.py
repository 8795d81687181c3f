"""``.pt2`` files: a ``torch.export`` program, which loads in any PyTorch program, without kat."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from kat.deploy.export_record import KEY, ExportRecord
from kat.deploy.tracing import quiet_warnings
from kat.errors import InputError, first_line
from kat.files import open_input


def write(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Writes the program, with the record as the extra file ``kat``."""
    content = io.BytesIO()  # PyTorch's own writer of files ends the process if the disk is full
    with quiet_warnings():
        torch.export.save(program, content, extra_files={KEY: record.to_json()})
    path.write_bytes(content.getbuffer())


def read(path: Path) -> tuple[Callable[..., Any], ExportRecord]:
    """The program as a function of the images, and the record.

    A program is code: do not call this for files that you do not trust.

    Raises:
        InputError: the file does not exist, is damaged, or was not written by 'kat export'.
    """
    record = read_record(path)
    try:
        with quiet_warnings():
            module = torch.export.load(path).module()
    except Exception as error:  # many kinds, for damage and for other versions of torch
        raise InputError(
            f"torch {torch.__version__} cannot load the program in {path}: {first_line(error)}"
        ) from None
    return module, record


def read_record(path: Path) -> ExportRecord:
    """The record; no code in the file runs."""
    try:
        with open_input(path) as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")]
            if damaged is None:
                text = archive.read(names[0]) if names else None
                return ExportRecord.from_json(text, str(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a complete .pt2 file: {error}") from None
    raise InputError(f"{path} is damaged: the checksum of {damaged} in it does not match")
