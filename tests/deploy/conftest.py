"""One model in every stored form."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from kat.deploy import export_model, make_resizable
from kat.models import ModelRecord, save_model
from tests.models.small import make_model


class Stored(NamedTuple):
    """A model, its record, and the folder with its stored forms."""

    model: nn.Module
    record: ModelRecord
    folder: Path


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """folder/, fixed.onnx, resizable.pt2, and with int8 weights fixed8.pt2 and resizable8.onnx."""
    folder = tmp_path_factory.mktemp("stored")
    model, record = make_model()
    resizable = make_resizable(model, record)
    save_model(model, record, folder / "folder")
    export_model(model, record, folder / "fixed.onnx")
    export_model(resizable, record, folder / "resizable.pt2")
    export_model(model, record, folder / "fixed8.pt2", int8=True)
    export_model(resizable, record, folder / "resizable8.onnx", int8=True)
    return Stored(model, record, folder)
