"""The trained model that comes with the library, by its name."""

from __future__ import annotations

from pathlib import Path

import kat
from kat.models import save_model
from kat.models.checkpoints.shipped import model_path
from tests.cli.commands import refused, run
from tests.models.small import make_model

DIGIT = Path("examples/digit.png").absolute()
"""A one, the first of the validation images."""


def test_a_name_opens_the_shipped_model_unless_a_path_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert kat.load("digits").predict(DIGIT).entries[0]["class"] == "1"
    assert run("export", "digits", "--out", "exported") == 0
    assert "top1: 97.2" in Path("exported/README.md").read_text()
    assert "a finished run" in refused(capsys, "eval", "digits", "--calibrate")
    assert "kat_micro_patch2_8, 10 classes, 1x8x8" in str(kat.load("digits"))
    save_model(*make_model(), "digits")
    assert kat.load("digits").classes == ["ant", "bee", "cat"]


def test_the_record_of_the_shipped_model_names_no_place_of_a_machine():
    for path in model_path("digits").glob("*.[jy]*"):
        assert "/" not in path.read_text().replace("runs/digits", "")
