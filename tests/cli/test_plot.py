"""``kat plot`` as a user calls it: figures of one run, of several, and of tables of grids."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from kat import analysis
from kat.analysis.figures import attention, base, grids
from kat.analysis.runs import read_runs, write_runs
from kat.data import DataConfig, eval_transform, open_split
from kat.models import build_model, load_model, save_model
from kat.nn import LayerHistory, write_coefficient_history
from kat.tables import write_table
from kat.training import ModelConfig, OptimConfig, TrainConfig, settings_to_keep
from tests import records
from tests.analysis.report_pages import grid_rows, rows_with_test
from tests.cli.commands import refused, run

RECORD = replace(records.RECORD, mean=(0.3,), std=(0.4,), crop_pct=0.8, args={"depth": 2})
SUMMARY = {
    "parameters": 1000, "top5": 99.0, "seconds": 60.0, "images_per_second": 50.0,
    "memory_bytes": 10**9, "epochs": 2, "best_epoch": 2,
}  # fmt: skip


def write_run(folder, *, top1=90.0, seed=0, lr=0.001):
    """A finished run on digits with random weights, two epochs, and this top-1."""
    torch.manual_seed(seed)
    save_model(build_model(RECORD), RECORD, folder)
    config = TrainConfig(
        out=str(folder), seed=seed, model=ModelConfig(name=RECORD.architecture),
        data=DataConfig(name="digits"), optim=OptimConfig(lr=lr),
    )  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings_to_keep(config)))
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "top1": top1}))
    losses = {"train_loss": 2.0, "val_loss": 1.0}
    rows = [{"epoch": e, **losses, "top1": top1 - 20 + 10 * e, "top5": 99.0} for e in (1, 2)]
    write_table(folder / "history.csv", list(rows[0]), rows)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one setting, one of another, and a table of them with a run that failed."""
    out = tmp_path_factory.mktemp("runs")
    made = {"a0": (90.0, 0, 0.001), "a1": (92.0, 1, 0.001), "b0": (80.0, 0, 0.01)}
    for name, (top1, seed, lr) in made.items():
        write_run(out / "runs" / name, top1=top1, seed=seed, lr=lr)
    rows = [
        {"cell": n[0], "seed": s, "status": "done", "top1": t, **SUMMARY, "run": f"runs/{n}"}
        for n, (t, s, _) in made.items()
    ]
    failed = {"cell": "b", "seed": 1, "status": "failed", "run": "runs/b1"}
    write_runs([*rows, failed], out / "lr.csv")
    write_runs([failed], out / "failed.csv")
    return out


@pytest.fixture
def folder(runs):
    return runs / "runs" / "a0"


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each figure that would have been drawn."""
    calls = []
    names = {"plot_activations": analysis, "draw_attention": attention, "draw_costs": grids}
    for name, module in {**names, "plot_learning_curves": analysis}.items():
        monkeypatch.setattr(module, name, lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(base, "save_figure", lambda figure, path: None)
    return calls


def test_activations_are_over_as_many_images_of_the_run_as_asked_for(
    tmp_path, capsys, drawn, monkeypatch
):
    seen, look = [], analysis.learned_activations

    def counted(model, images, **more):
        batches = list(images)
        seen.append(sum(map(len, batches)))
        return look(model, batches, **more)

    monkeypatch.setattr(analysis, "learned_activations", counted)
    for images in (70, 3, 1000):  # the split has 360
        out = tmp_path / "a.png"
        assert run("plot", "activations", "digits", "--out", out, "--images", images) == 0
        printed = capsys.readouterr().out
        assert printed.endswith(f"{out}\n")
    assert seen == [70, 3, 360]
    names = [f"blocks.{b}.mlp.act{a}" for b in range(4) for a in (1, 2)]
    assert [a.name for a in drawn[0][0]] == names
    assert all(a.histogram is not None for a in drawn[0][0])


def test_activations_without_images_and_over_other_data(folder, tmp_path, capsys, drawn):
    alone, moved = tmp_path / "model", write_run(tmp_path / "run")
    save_model(load_model(folder)[0], RECORD, alone)
    settings = yaml.safe_load((moved / "run.yaml").read_text())
    settings["data"]["name"] = f"folder:{tmp_path}/gone"
    (moved / "run.yaml").write_text(yaml.safe_dump(settings))
    out = ("--out", tmp_path / "a.svg")
    for options, said in (
        ((alone,), f"drawn without images: {alone} belongs to no run: name a dataset"),
        ((folder, "--images", 0), "drawn without images"),
        ((moved,), "drawn without images: "),
    ):
        assert run("plot", "activations", *options, *out) == 0
        assert said in capsys.readouterr().out
        assert all(a.histogram is None for a in drawn[-1][0])
    assert run("plot", "activations", alone, *out, "--data", "digits", "--width", 1.5) == 0
    assert "images of digits" in capsys.readouterr().out


@pytest.mark.slow
def test_the_symbolic_reading_is_written(folder, tmp_path):
    out, table = tmp_path / "a.png", tmp_path / "a.csv"
    common = ("plot", "activations", folder, "--out", out, "--images", 32)
    assert run(*common, "--csv", table) == 0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 4 * 8
    # an untrained model's first rationals are the identity, its second ones SiLU
    assert {(r["layer"][-1], r["nearest"]) for r in rows} == {("1", "identity"), ("2", "silu")}
    assert {float(row["from_start"]) for row in rows} == {0.0}
    assert out.stat().st_size > 10_000


def test_bad_input_of_activations(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vit = replace(RECORD, architecture="vit_micro_patch2_8")
    save_model(timm.create_model("vit_micro_patch2_8", in_chans=1, depth=2), vit, tmp_path / "vit")
    for arguments, says in (
        ([folder, "--out", "a.gif"], "must end in .png or .svg or .pdf"),
        ([folder, "--width", -3], "--width must be above 0"),
        (["vit"], "has no rational: it is no KAT"),
    ):
        assert says in refused(capsys, "plot", "activations", *arguments)


def test_attention_is_drawn_over_images_as_the_model_sees_them(folder, tmp_path, drawn):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    path, out = tmp_path / "wide.png", ("--out", tmp_path / "a.png")
    Image.fromarray(pixels).save(path)
    assert run("plot", "attention", folder, "--images", 3, *out) == 0
    assert run("plot", "attention", folder, path, *out) == 0
    split = open_split(DataConfig(name="digits"), "val").evenly_spaced(3)
    own = [split[i] for i in range(3)]
    seen = eval_transform(RECORD, normalize=False)
    (pictures, titles, maps, *_), (from_file, *_) = drawn
    assert torch.equal(pictures, torch.stack([seen(image) for image, _ in own]))
    for title, (_, label) in zip(titles, own, strict=True):
        assert title.startswith(f"true: {label}, predicted: ")
    assert list(maps.blocks) == ["blocks.0.attn", "blocks.1.attn"]
    assert torch.equal(from_file[0], seen(Image.open(path)))


def test_bad_input_of_attention(folder, tmp_path, capsys):
    alone, out = tmp_path / "model", ("--out", tmp_path / "a.png")
    save_model(load_model(folder)[0], RECORD, alone)
    for arguments, says in (
        ([folder, "--block", 2], "there is no block 2; the model has blocks 0 to 1"),
        ([folder, "--image-size", 9], "multiple of 2x2"),
        ([folder, "a.png", "--data", "x"], "--data has no effect"),
        ([alone], "belongs to no run: name a dataset to take images of"),
    ):
        assert says in refused(capsys, "plot", "attention", *arguments, *out)
    assert list(tmp_path.iterdir()) == [alone]


def test_curves_of_folders_and_tables(runs, tmp_path, drawn, capsys):
    folders = [runs / "runs" / name for name in ("a0", "b0", "a1")]
    rows = read_runs(runs / "lr.csv")
    write_runs([*rows, {**rows[0], "run": "runs/moved"}], runs / "reused.csv")
    for arguments in (
        folders,
        [*folders, "--group"],
        [*folders, "--group", "--labels", "low", "high"],
        [runs / "reused.csv"],
        [runs / "lr.csv", folders[1]],
    ):
        assert run("plot", "curves", *arguments, "--out", tmp_path / "c.png") == 0
    lasts = [{k: [rows[-1]["top1"] for rows in v] for k, v in lines.items()} for lines, *_ in drawn]
    assert lasts == [
        {"a0": [90.0], "b0": [80.0], "a1": [92.0]},
        {"a0": [90.0, 92.0], "b0": [80.0]},
        {"low": [90.0, 92.0], "high": [80.0]},
        {"a": [90.0, 92.0], "b": [80.0]},
        {"lr: a": [90.0, 92.0], "lr: b": [80.0], "b0": [80.0]},
    ]
    assert "runs/moved is left" in capsys.readouterr().err


def test_the_figure_of_curves_and_bad_input(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    out = tmp_path / "curves.svg"
    assert run("plot", "curves", "lr.csv", "--metric", "top5", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert all(text in out.read_text() for text in ("validation top-5", "a (2 runs)"))
    new = write_run(tmp_path / "new")
    (new / "history.csv").write_text("epoch,top1\n")
    for arguments, says in (
        (["runs/a0", "--metric", "raw_top1"], "'a0' has no epoch at which all its runs have raw"),
        (["runs/a0", "lr.csv", "--labels", "x"], "--labels must be 3 different names, for a0, lr:"),
        (["runs"], "runs is neither a run directory nor a .csv of 'kat ablate'"),
        (["failed.csv"], "no run of failed.csv is done"),
        ([new], "new is done and has a history.csv with an epoch in it"),
    ):
        assert says in refused(capsys, "plot", "curves", *arguments, "--out", tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_costs_of_a_table_without_its_folders(tmp_path, capsys):
    done = {"status": "done", **SUMMARY, "run": "x"}
    rows = [
        {"cell": cell, "seed": seed, "top1": top1 + seed, "flops": flops, **done}
        for cell, top1, flops in (("KAT", 86.0, 3), ("ViT", 85.0, 2), ("worse", 80.0, 4))
        for seed in (0, 1)
    ]
    rows.append({"cell": "lost", "seed": 0, "status": "diverged", "run": "y"})
    write_runs(rows, tmp_path / "models.csv")
    out = tmp_path / "cost.svg"
    assert run("plot", "cost", tmp_path / "models.csv", "--out", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in said[:3]] == ["lost", "KAT", "ViT, KAT"]
    assert said[-1] == str(out)
    assert out.read_text().count("slowed each other") == 1


@pytest.mark.slow
def test_evolution_is_small_multiples_or_an_animation(tmp_path, capsys):
    numerator = torch.randn(4, 1, 6)
    layer = LayerHistory("A", torch.tensor([0, 5, 10, 12]), numerator, torch.rand(4, 8, 4))
    layers = {f"blocks.0.mlp.{name}": layer for name in ("act1", "act2")}
    write_coefficient_history(layers, tmp_path / "coefficients.csv")
    line = refused(capsys, "plot", "evolution", tmp_path, "--layers", "act1")
    assert "like act1" in line
    for name in ("e.svg", "e.gif"):
        assert run("plot", "evolution", tmp_path, "--out", tmp_path / name, "--width", 2) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert "blocks.0.mlp.act1" in (tmp_path / "e.svg").read_text()
    assert "coefficients.csv" in refused(capsys, "plot", "evolution", tmp_path / "gone")


def _texts(path):
    """The texts of an SVG."""
    return re.findall("<text .*?>(.*?)</text>", path.read_text())


def test_grids_are_drawn_below_each_other(tmp_path, capsys):
    paths = [tmp_path / name / "models.csv" for name in ("a", "b")]
    for path, scale in zip(paths, (1.0, 0.5), strict=True):
        path.parent.mkdir()
        write_runs([{**row, "top1": row["top1"] * scale} for row in grid_rows()], path)
    out = tmp_path / "forest.svg"
    assert run("plot", "forest", *paths, paths[0], "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    texts = _texts(out)
    names = ["a_models (minus KAT)", "b_models (minus KAT)"]
    assert sorted(text for text in texts if text in names) == names
    lines = [text for text in texts if "±" in text]
    assert [line[:12] for line in lines] == ["-2.90 ± 0.66", "-1.45 ± 0.33"]
    assert all(line.endswith("ViT (a long name)") for line in lines)


def test_tested_grids_are_compared_by_their_test(tmp_path, capsys):
    lost = {"cell": "lost", "seed": 0, "status": "diverged", "run": "x"}
    write_runs([*rows_with_test(), lost], tmp_path / "tested.csv")
    out = tmp_path / "forest.svg"
    assert run("plot", "forest", tmp_path / "tested.csv", "--out", out) == 0
    left_out = "left out, no seed in common with 'KAT': tested: lost"
    assert capsys.readouterr().out.splitlines() == [left_out, str(out)]
    assert [text[:5] for text in _texts(out) if "±" in text] == ["-0.75"]  # +0.75 in validation
    write_runs(grid_rows(), tmp_path / "plain.csv")
    line = refused(capsys, "plot", "forest", tmp_path / "tested.csv", tmp_path / "plain.csv")
    assert "'plain' by validation" in line
