"""Reading weights from files: every usual nesting, and every kind of damage."""

from __future__ import annotations

import argparse
import base64
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from kat.errors import InputError
from kat.models import load_weights, read_state_dict
from kat.models.checkpoints.state_dict import canonical, read_torch_file

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


class Shout:
    """Prints when it is unpickled, as any code could run."""

    def __reduce__(self):
        return print, ("code was run",)


def test_a_safetensors_file(tmp_path):
    safetensors.torch.save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert read_state_dict(tmp_path / "weights.safetensors").keys() == WEIGHTS.keys()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    named = {f"{prefix}{name}": value for name, value in WEIGHTS.items()}
    assert canonical(named).keys() == WEIGHTS.keys()


def test_an_average_comes_before_the_weights_and_none_is_passed_over():
    average = {"fc.bias": torch.zeros(2)}
    assert canonical({"state_dict": WEIGHTS, "state_dict_ema": average}) == average
    assert canonical({"state_dict": WEIGHTS, "state_dict_ema": None}) == WEIGHTS


def _truncated(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.randn(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-500])


OLD_FORMAT = zlib.decompress(
    base64.b85decode(
        "c-n1IJ5S?45VqHO!16v05FKS`q9h8h3JOHCIv%0f23f{l;zgD>vpWWHQY1GZ;5SfE-e0?)aMBe_oCYLTJ0tBkGvD`V"
        "wq&n7`~P<GZ|nBY`DVLhzy1c4$KbW(vgdgtYtY0d3-6S5+T`F<gIu6WrV%q0syxwA4(wTS0`Xy_LZ^Q#2f-L>Em<ef"
        "rN$!E1(N~2bdJyvHCdZ*n0yFLQ7ek6X2sz!LKP-DM)1eLT5^`ao49?i^e{yTVl*~R+hKt^b3C-_y3kn?qRO4I;a!iD"
        "Zc8>RCS#+ag8FoXpJXP&%PGjAAs4CVpue}jf6(uAyF0s`4m2x|@u+|q(Ktnzy%3&YB6tEW0^vWw+)GUB$W)B94ad)H"
        "qO3}e$t{QZ?Ex$xEDm6)(kIi`I&!d_lB2YqepT%CcDwyPtfVu7k<yP!=@C|i{|G-{(h1ob!ukL<3P<a?ntaJOj{WaQ"
        "nQAw@&!;@3bVQe;q<BAKUuxyy2i#4ElK"
    )
)
"""A checkpoint of WEIGHTS as torch wrote it before 1.6, without zip."""


def _safetensors_cut_short(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pth", lambda path: torch.save({"state_dict": WEIGHTS, "hook": Shout()}, path),
         r"more than weights \(\S*print\).*could run code.*weights_only=False"),
        ("a.pth", lambda path: torch.save({"model": torch.nn.Linear(2, 2)}, path),
         r"more than weights \(torch\.nn\.modules\.linear\.Linear\)"),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({"hook": Shout()})),
         r"a plain pickle.*could run code.*pickle\.load\("),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({"hook": Shout()}, 2)),
         "a plain pickle"),
        ("a.pth", lambda path: path.write_bytes(OLD_FORMAT[:-20]), "not a readable checkpoint"),
        ("a.pth", _truncated, "not a readable checkpoint"),
        ("a.pth", lambda path: path.write_bytes(b""), "not a readable checkpoint"),
        ("a.bin", lambda path: path.write_text("<html>not found</html>"),
         "a page that was downloaded"),
        ("a.pth", lambda path: torch.save([1, 2], path), "holds a list, not a checkpoint"),
        ("a.pth", lambda path: torch.save({"epoch": 1}, path), "holds no weights"),
        ("a.safetensors", _safetensors_cut_short, "not a complete safetensors file"),
        ("a.safetensors", lambda path: path.write_bytes(b""), "not a complete safetensors file"),
        ("a.safetensors", lambda path: None, "does not exist"),
        ("a.pth", lambda path: None, "does not exist"),
    ],
)  # fmt: skip
def test_bad_files_are_named_and_their_code_is_never_run(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_the_settings_of_timms_checkpoints_are_let_through(tmp_path):
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    assert read_state_dict(tmp_path / "a.pth").keys() == WEIGHTS.keys()


def test_the_old_format_of_torch_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(OLD_FORMAT)
    found = read_state_dict(tmp_path / "a.pth")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
def test_numbers_of_numpy_are_let_through(tmp_path, kind):
    torch.save({"state_dict": WEIGHTS, "best": kind(1)}, tmp_path / "a.pth")
    assert read_torch_file(tmp_path / "a.pth")["best"] == 1


def test_mismatches_are_counted_and_the_first_listed_and_nothing_is_copied():
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
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
