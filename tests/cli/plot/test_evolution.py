"""``kat plot evolution`` as a user calls it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from kat.nn import LayerHistory, write_coefficient_history
from tests.cli.commands import refused, run


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    numerator = torch.randn(4, 1, 6)
    layer = LayerHistory("A", torch.tensor([0, 5, 10, 12]), numerator, torch.rand(4, 8, 4))
    write_coefficient_history({"blocks.0.mlp.act1": layer}, out / "coefficients.csv")
    return out


def test_small_multiples_and_an_animation(folder, tmp_path, capsys):
    for name in ("e.svg", "e.gif"):
        assert run("plot", "evolution", folder, "--out", tmp_path / name, "--width", 2) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    text = (tmp_path / "e.svg").read_text()
    assert "blocks.0.mlp.act1" in text
    assert all(f"step {step}" in text for step in (0, 5, 10, 12))
    with Image.open(tmp_path / "e.gif") as image:
        assert image.n_frames >= 4


def test_bad_input(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ("plot", "evolution")
    line = refused(capsys, *common, tmp_path / "gone")
    assert "coefficients.csv does not exist: only training a KAT writes it" in line
    assert "must end in .png" in refused(capsys, *common, folder, "--out", "a.avi")
    line = refused(capsys, *common, folder, "--width", 0)
    assert "--width must be above 0, got 0" in line
    (folder / "coefficients.csv").write_text("step,layer\n1,2\n")
    assert "is not a coefficient history" in refused(capsys, *common, folder)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
