"""Weights: reading files in both formats, damage, names, and loading them into a model."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from kat.errors import InputError
from kat.models import load_weights, read_state_dict
from kat.models.checkpoints.weight_files import canonical, read_torch_file
from tests.equality import assert_equal

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
LEGACY = Path(__file__).with_name("legacy.pth")
"""These weights in the format of ``torch.save`` before version 1.6."""


class Shout:
    """Prints when it is unpickled, as any code could run."""

    def __reduce__(self):
        return print, ("code was run",)


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


def test_the_old_format_of_torch_is_read():
    assert_equal(read_state_dict(LEGACY), WEIGHTS)


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
    with pytest.raises(InputError, match=r"33\.55 MB"):
        read_state_dict(path)


@pytest.mark.parametrize("prefix", ["", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_removed(prefix):
    named = {f"{prefix}{name}": value for name, value in WEIGHTS.items()}
    assert canonical(named).keys() == WEIGHTS.keys()


def test_an_ema_comes_before_the_weights_and_none_is_skipped():
    average = {"fc.bias": torch.zeros(2)}
    assert canonical({"state_dict": WEIGHTS, "state_dict_ema": average}) == average
    for none in (None, {}):
        assert canonical({"state_dict": WEIGHTS, "state_dict_ema": none}) == WEIGHTS


def test_mismatches_are_counted_the_first_are_listed_and_nothing_is_copied():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {f"{i}.extra": torch.zeros(1) for i in range(5)}
    given |= {"0.weight": torch.zeros(2, 3), "1.weight": torch.zeros(2, 4)}
    with pytest.raises(InputError) as refusal:
        load_weights(model, given, source="file.pth")
    assert str(refusal.value) == (
        "file.pth holds the weights of another model: 2 missing (0.bias, 1.bias);"
        " 5 unexpected (0.extra, 1.extra, 2.extra and 2 more);"
        " 1 of another shape (1.weight (2, 4) for (2, 2))"
    )
    with pytest.raises(InputError, match=r"1 not of floating-point numbers \(0\.bias\)$"):
        load_weights(model, {**before, "0.bias": before["0.bias"].to(torch.int8)}, source="it")
    assert_equal(model.state_dict(), before)


def test_an_averaged_model_has_the_names_of_the_model():
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    assert list(canonical(averaged.state_dict())) == ["weight", "bias"]
