"""Reading files of weights: both formats, and every kind of damage."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from kat.errors import InputError
from kat.models import read_state_dict
from kat.models.checkpoints.weight_files import read_torch_file

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
LEGACY = Path(__file__).with_name("legacy.pth")
"""These weights in the format of ``torch.save`` before version 1.6."""


class Shout:
    """Prints when it is unpickled, as any code could run."""

    def __reduce__(self):
        return print, ("code was run",)


def test_a_safetensors_file(tmp_path):
    safetensors.torch.save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert read_state_dict(tmp_path / "weights.safetensors").keys() == WEIGHTS.keys()


def _truncated(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.randn(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-500])


def _truncated_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pth", lambda path: torch.save({"state_dict": WEIGHTS, "hook": Shout()}, path),
         r"more than weights \(\S*print\), and reading that could run code"),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({"hook": Shout()}, 2)),
         "could run code"),
        ("a.pth", _truncated, "not a complete file of torch.save"),
        ("a.bin", lambda path: path.write_text("<html>not found</html>"), "not a complete file of"),
        ("a.safetensors", _truncated_safetensors, "not a complete safetensors file"),
        ("a.pth", lambda path: None, "does not exist"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_and_code_never_runs(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_the_settings_in_timms_checkpoints_are_allowed(tmp_path):
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    assert read_state_dict(tmp_path / "a.pth").keys() == WEIGHTS.keys()


def test_the_old_format_of_torch_is_read():
    read = read_state_dict(LEGACY)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in read.items())


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_numpy_scalars_are_allowed(tmp_path, kind):
    torch.save({"state_dict": WEIGHTS, "best": kind(1)}, tmp_path / "a.pth")
    assert read_torch_file(tmp_path / "a.pth")["best"] == 1


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr("archive/data/0", bytes(1 << 25))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(InputError, match=r"bomb\.pth would become 33.55 MB when it is unpacked"):
        read_state_dict(path)
