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

    def file(self, name: str) -> Path:
        """A stored form, made at the first call: folder, {fixed,resizable}[8].{onnx,pt2}."""
        path = self.folder / name
        if path.exists():
            return path
        if name == "folder":
            save_model(self.model, self.record, path)
            return path
        resizes = name.startswith("resizable")
        model = make_resizable(self.model, self.record) if resizes else self.model
        export_model(model, self.record, path, int8="8." in name)
        return path


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """folder/, fixed.onnx, resizable.pt2, and with int8 weights fixed8.pt2 and resizable8.onnx."""
    return Stored(*make_model(depth=1), tmp_path_factory.mktemp("stored"))
