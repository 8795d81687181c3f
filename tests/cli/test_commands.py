"""The commands together: one trains, others use what it left."""

from __future__ import annotations

import pytest

from tests.cli.commands import refused, run

pytestmark = pytest.mark.slow


def test_results_are_not_computed_for_a_file_that_cannot_be_written(tmp_path, capsys):
    for target, says in (("missing/x.json", "does not exist"), ("", "is not a regular file")):
        assert says in refused(capsys, "eval", "digits", "--json", tmp_path / target)


def test_a_split_without_a_readable_image_is_an_error(imagenet, tmp_path, capsys):
    for path in (imagenet / "val").rglob("*.jpg"):
        path.write_bytes(b"torn")
    options = ("--data.image_size", 32, "--data.batch_size", 20, "--epochs", 1, "--no-progress")
    options += ("--model.name", "kat_micro", "--config", "none")
    command = ("train", "--data", f"folder:{imagenet}", "--out", tmp_path / "run", *options)
    assert run(*command) == 2
    assert "validation split" in capsys.readouterr().err
    (imagenet / "train" / "n00" / "0.jpg").write_bytes(b"torn")
    assert "0.jpg" in refused(capsys, *command, "--overwrite", "--data.bad_images", "fail")
