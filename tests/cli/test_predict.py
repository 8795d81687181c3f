"""``kat predict``: files and folders, images that cannot be read, photographs."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from kat.cli.commands.predict import picture_names
from kat.tables import open_table
from tests.cli.commands import refused, run
from tests.images import png_header

pytestmark = pytest.mark.slow


def test_predict_goes_on_past_an_unreadable_image(imagenet, tmp_path, capsys):
    torn, answers = tmp_path / "torn.jpg", tmp_path / "answers.json"
    torn.write_bytes(b"torn")
    good = imagenet / "val" / "n00" / "0.jpg"
    table = tmp_path / "answers.csv"
    command = ("predict", torn, good, "--checkpoint", "digits", "--json", answers)
    line = refused(capsys, *command, "--device", "cuda:99")
    assert "cuda:99" in line
    assert run(*command, "--csv", table, "--device", "cpu", "--strict") == 1
    assert run(*command, "--csv", table, "--device", "cpu") == 0
    first, second = json.loads(answers.read_text())
    assert "none of JPEG" in first["error"]
    assert len(second["top"]) == 5
    line = f"kat: 1 of 2 images cannot be read, first {torn}\n"
    printed, said = capsys.readouterr()
    assert said == 2 * line
    assert run("predict", torn, "--checkpoint", "digits", "--device", "cpu") == 2
    assert capsys.readouterr().out == f"{torn} {first['error']}\n"
    with open_table(table, "predictions") as rows:
        bad, *best = list(rows)
    assert (bad["image"], bad["rank"], bad["error"]) == (str(torn), "", first["error"])
    assert [row["rank"] for row in best] == ["1", "2", "3", "4", "5"]
    *_, last, below = printed.splitlines()
    assert last.split()[0] != str(torn)
    assert below == f"{torn} {first['error']}"
    probabilities = [float(row["probability"]) for row in best]
    assert probabilities == [entry["probability"] for entry in second["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_predict_takes_folders_with_all_that_lies_in_them(imagenet, tmp_path, capsys):
    folder, answers = tmp_path / "photos", tmp_path / "answers.json"
    (folder / "more").mkdir(parents=True)
    good = shutil.copy(imagenet / "val" / "n00" / "0.jpg", folder / "more")
    bomb = folder / "bomb.png"
    bomb.write_bytes(png_header(2**20, 2**20))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop").symlink_to(".")
    (folder / "notes.txt").write_text("notes")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "a.jpg").write_bytes(b"of the system")
    assert run("predict", folder, "--checkpoint", "digits", "--json", answers) == 0
    first, pipe, second = json.loads(answers.read_text())
    assert (first["image"], second["image"]) == (str(bomb), str(good))
    assert "limit of" in first["error"]
    assert "regular file" in pipe["error"]
    assert len(second["top"]) == 5
    left_out = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{folder / 'loop'} is left") for line in left_out)
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "predict", tmp_path / "empty", "--checkpoint", "digits")
    assert "no image in" in line


def test_no_picture_has_the_name_of_another_ones_mask():
    paths = ["d/x.jpg", "d/x_mask.png", "e/x.jpg", "d/y_mask.png", "d/y.jpg"]
    names = picture_names(paths)
    files = [f"{name}{end}" for name in names.values() for end in (".png", "_mask.png")]
    assert len(set(files)) == 2 * len(paths)
    assert picture_names(["d/x.jpg", "e/y.png"]) == {"d/x.jpg": "x", "e/y.png": "y"}
