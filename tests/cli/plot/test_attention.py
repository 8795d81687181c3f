"""``kat plot attention`` as a user calls it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kat.cli.plot import attention
from kat.data import DataConfig, eval_transform, open_split
from kat.models import load_model, save_model
from tests.cli.commands import refused, run
from tests.cli.plot.small_runs import RECORD, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture
def drawn(monkeypatch):
    """What would have been drawn."""
    calls = []
    monkeypatch.setattr(attention, "draw_attention", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(attention, "save_figure", lambda figure, path: None)
    return calls


def _guesses(folder, images):
    model, record = load_model(folder)
    with torch.no_grad():
        return model(torch.stack([eval_transform(record)(i) for i in images])).argmax(-1).tolist()


def test_a_runs_own_validation_images(folder, tmp_path, drawn):
    assert run("plot", "attention", folder, "--images", 3, "--out", tmp_path / "a.png") == 0
    pictures, titles, maps, *_ = drawn[0]
    images = open_split(DataConfig(name="digits"), "val").evenly_spaced(3)
    seen = eval_transform(RECORD, normalize=False)
    assert torch.equal(pictures, torch.stack([seen(images[i][0]) for i in range(3)]))
    guesses = _guesses(folder, [images[i][0] for i in range(3)])
    assert [title.rpartition(" (")[0] for title in titles] == [
        f"true: {images[i][1]}\npredicted: {guess}" for i, guess in enumerate(guesses)
    ]
    assert list(maps.blocks) == ["blocks.0.attn", "blocks.1.attn"]


def test_files_are_drawn_as_the_model_sees_them(folder, tmp_path, drawn):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    assert run("plot", "attention", folder, path, "--out", tmp_path / "a.png") == 0
    pictures, titles, *_ = drawn[0]
    assert torch.equal(pictures[0], eval_transform(RECORD, normalize=False)(Image.open(path)))
    guess = _guesses(folder, [Image.open(path)])[0]
    assert titles[0].startswith(f"wide.png\npredicted: {guess} (")


def test_the_figure_is_written(folder, tmp_path, capsys):
    out = tmp_path / "heads.svg"
    arguments = ["--block", 1, "--image-size", 12, "--images", 2, "--out", out]
    assert run("plot", "attention", folder, *arguments) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "block 1, head 3" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--images", 0], "--images must be at least 1, got 0"),
        (["--block", 2], "there is no block 2; the model has blocks 0 to 1"),
        (["missing.png"], "missing.png cannot be read as an image"),
        (["--image-size", 9], "multiple of 2x2"),
        (["a.png", "--data", "x"], "--data has no effect beside image files: leave it out"),
    ],
)
def test_what_is_wrong_is_named(folder, tmp_path, capsys, arguments, says):
    assert says in refused(
        capsys, "plot", "attention", folder, *arguments, "--out", tmp_path / "a.png"
    )
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_run_needs_files(tmp_path, capsys):
    save_model(load_model(write_run(tmp_path / "run"))[0], RECORD, tmp_path / "model")
    line = refused(capsys, "plot", "attention", tmp_path / "model", "--out", tmp_path / "a.png")
    assert "belongs to no run: name a dataset to take images of" in line
