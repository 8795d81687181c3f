"""``kat plot activations`` as a user calls it."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import timm
import yaml

from kat.cli.plot import activations as command
from kat.models import save_model
from tests.cli.commands import refused, run
from tests.cli.plot.small_runs import RECORD, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def drawn(monkeypatch):
    """The activations that are drawn."""
    seen = []

    def plot(activations, path):
        seen.extend(activations)
        path.write_bytes(b"drawn")

    monkeypatch.setattr(command, "plot_activations", plot)
    return seen


def test_a_runs_activations_are_drawn_over_its_own_images(folder, tmp_path, capsys, drawn):
    out = tmp_path / "a.png"
    assert run("plot", "activations", folder, "--out", out, "--images", 70) == 0
    printed = capsys.readouterr().out
    assert "in gray the inputs of validation images of digits, 70 at most" in printed
    assert printed.endswith(f"{out}\n")
    assert [a.name for a in drawn] == [f"blocks.{b}.mlp.act{a}" for b in (0, 1) for a in (1, 2)]
    assert all(a.histogram is not None for a in drawn)


def test_so_many_images_as_asked_for_and_no_more(folder, tmp_path, monkeypatch, drawn):
    counts = []
    look = command.learned_activations
    monkeypatch.setattr(
        command,
        "learned_activations",
        lambda model, images, **more: look(
            model, (counts.append(len(batch)) or batch for batch in images), **more
        ),
    )
    out = ("--out", tmp_path / "a.png")
    assert run("plot", "activations", folder, *out, "--images", 70) == 0
    assert run("plot", "activations", folder, *out, "--images", 3) == 0
    assert run("plot", "activations", folder, *out, "--images", 1000) == 0
    assert counts == [64, 6, 3, 64, 64, 64, 64, 64, 40]  # digits' validation split has 360


def test_without_images_and_with_those_of_other_data(folder, tmp_path, capsys, drawn):
    alone = tmp_path / "model"
    save_model(timm.create_model("kat_micro_patch2_8", in_chans=1, depth=2), RECORD, alone)
    common = ("plot", "activations", alone, "--out", tmp_path / "a.svg")
    assert run(*common) == 0
    printed = capsys.readouterr().out
    assert f"drawn without images: {alone} belongs to no run: name a dataset" in printed
    assert run("plot", "activations", folder, "--images", 0, "--out", tmp_path / "a.svg") == 0
    assert "drawn without images" in capsys.readouterr().out
    assert all(a.histogram is None for a in drawn)
    assert run(*common, "--data", "digits", "--width", 1.5) == 0
    assert "validation images of digits" in capsys.readouterr().out
    assert drawn[-1].histogram is not None
    assert drawn[-1].x[-1] == 1.5


def test_a_runs_data_that_is_gone_is_said(folder, tmp_path, capsys, drawn):
    moved = write_run(tmp_path / "run")
    settings = yaml.safe_load((moved / "run.yaml").read_text())
    settings["data"]["name"] = f"folder:{tmp_path}/gone"
    (moved / "run.yaml").write_text(yaml.safe_dump(settings))
    assert run("plot", "activations", moved, "--out", tmp_path / "a.png") == 0
    assert "drawn without images: " in capsys.readouterr().out
    assert drawn[0].histogram is None


def test_the_symbolic_reading_is_printed_and_written(folder, tmp_path, capsys):
    out, table = tmp_path / "a.png", tmp_path / "a.csv"
    common = ("plot", "activations", folder, "--out", out, "--images", 32)
    assert run(*common, "--csv", table) == 0
    printed = capsys.readouterr().out
    assert "nearest" in printed
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 4 * 8
    # an untrained model's first rationals are the identity, its second ones SiLU
    assert {(row["layer"][-1], row["nearest"]) for row in rows} == {
        ("1", "identity"),
        ("2", "silu"),
    }
    assert {float(row["from_start"]) for row in rows} == {0.0}
    for line in printed.splitlines()[2:4]:
        assert "8" in line.split()
    assert out.stat().st_size > 10_000


def test_bad_input(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ("plot", "activations")
    assert "must end in .png or .svg or .pdf" in refused(capsys, *common, folder, "--out", "a.gif")
    assert "does not exist" in refused(capsys, *common, folder, "--out", "gone/a.png")
    line = refused(capsys, *common, folder, "--images", -1)
    assert "--images must be at least 0, got -1" in line
    line = refused(capsys, *common, folder, "--images", 0, "--data", "digits")
    assert "--data has no effect with --images 0" in line
    assert "--width must be above 0" in refused(capsys, *common, folder, "--width", -3)
    assert "unknown dataset 'diggits'" in refused(capsys, *common, folder, "--data", "diggits")
    vit = replace(RECORD, architecture="vit_micro_patch2_8")
    save_model(timm.create_model("vit_micro_patch2_8", in_chans=1, depth=2), vit, tmp_path / "vit")
    assert "has no rational: it is no KAT" in refused(capsys, *common, tmp_path / "vit")
    rgb = replace(RECORD, input_size=(3, 8, 8), mean=(0.5,) * 3, std=(1,) * 3)
    save_model(timm.create_model("kat_micro_patch2_8", depth=2), rgb, tmp_path / "rgb")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    assert run(*common, tmp_path / "rgb", "--data", "digits", "--out", tmp_path / "rgb.png") == 0
