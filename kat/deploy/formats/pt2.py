"""``.pt2`` files: a ``torch.export`` program, which loads in any PyTorch program, without kat."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from kat.deploy.program import quiet_warnings
from kat.deploy.stored_record import KEY, StoredRecord
from kat.errors import InputError


def write_pt2(program: ExportedProgram, record: StoredRecord, path: Path) -> None:
    """Writes the program, with the record as the extra file ``kat``."""
    with quiet_warnings():
        torch.export.save(program, path, extra_files={KEY: record.to_json()})


def read_pt2(path: Path) -> tuple[Callable[[Tensor], Tensor], StoredRecord]:
    """The program as a function of the images, and the record.

    A program is code: ``torch.export.load`` is not for files that you do not trust.

    Raises:
        InputError: the file is missing, damaged, or not an export of kat's.
    """
    record = StoredRecord.from_json(_read_record(path), str(path))
    try:
        with quiet_warnings():
            module = torch.export.load(path).module()
    except Exception as error:  # of many kinds, for damage and for other versions of torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"torch {torch.__version__} cannot load the program in {path}: {reason}"
        ) from None
    return module, record


def _read_record(path: Path) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")]
            if damaged is None:
                return archive.read(names[0]) if names else None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a complete .pt2 file: {error}") from None
    raise InputError(f"{path} is damaged: {damaged} in it does not have its checksum")
