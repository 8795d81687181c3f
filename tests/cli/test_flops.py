"""``kat flops`` as a user calls it."""

from __future__ import annotations

import csv
import json

import pytest
import timm

from kat.analysis.cost import tables
from kat.models.checkpoints.shipped import model_path
from tests.cli.commands import refused, run


def _read(path):
    return list(csv.DictReader(path.open()))


@pytest.mark.slow
def test_without_a_model_it_is_the_papers_table(monkeypatch, tmp_path, capsys):
    tiny = {n: figures for n, figures in tables.PUBLISHED.items() if "tiny" in n}
    monkeypatch.setattr(tables, "PUBLISHED", tiny)  # the others take seconds
    assert run("flops", "models", "--csv", tmp_path / "costs.csv") == 0
    printed = capsys.readouterr().out
    assert "authors' figures" in printed
    for name, digits in (("vit", "1.08"), ("kat", "1.13")):
        cells = [line.split() for line in printed.splitlines() if line.startswith(name)][-1:]
        assert cells[0][0].startswith(name)
        assert cells[0][-4:-2] == [digits, "yes"]
    rows = _read(tmp_path / "costs.csv")
    assert [row["authors_gflops"] for row in rows] == ["1.08", "1.13"]
    assert {row["agrees_with_authors"] for row in rows} == {"True"}
    assert [row["parameters"] for row in rows] == ["5717416", "5718328"]


def test_layers_add_up_to_the_model(tmp_path):
    table, data = tmp_path / "layers.csv", tmp_path / "costs.json"
    options = ("--args", "{num_groups: 4, degree: [3, 2]}", "--layers")
    common = ("flops", "models", "kat_micro", *options)
    assert run(*common, "--csv", table, "--json", data) == 0
    rows = _read(table)
    (model,) = json.loads(data.read_text())
    for name in ("parameters", "multiply_adds", "flops", "paper_count", "activation_bytes"):
        assert sum(int(row[name]) for row in rows) == model[name], name
    assert len(model["layers"]) == len(rows)


def test_a_stored_model_is_counted_as_it_is_stored(tmp_path, capsys):
    out = tmp_path / "a.json"
    names = ("digits", model_path("digits") / "model.safetensors")
    assert run("flops", "models", *names, "--json", out) == 0
    stored, again = json.loads(out.read_text())
    assert stored["input"] == "1x8x8"
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, num_classes=10)
    assert stored["parameters"] == sum(p.numel() for p in model.parameters())
    assert again["flops"] == stored["flops"]


def test_layers_are_compared(tmp_path):
    files = ("--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json")
    assert run("flops", "layers", 64, 32, "--groups", 4, "--grid", 3, *files) == 0
    _, grkan, kan = _read(tmp_path / "a.csv")
    assert int(grkan["parameters"]) == 64 * 32 + 32 + 6 + 4 * 4
    assert int(kan["parameters"]) == 64 * 32 * (3 + 3 + 1) + 32
    assert json.loads((tmp_path / "a.json").read_text())[1]["flops"] == int(grkan["flops"])


def test_bad_input_of_flops(capsys):
    for arguments, says in (
        (("kat_micro", "--args", "{num_groups: 5}"), "num_groups"),
        (("digits", "--image-size", 16), "stored with"),
    ):
        assert says in refused(capsys, "flops", "models", *arguments)
