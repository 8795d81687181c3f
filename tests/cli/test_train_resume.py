"""``kat train`` into a folder that has something in it: resuming, refusing, overwriting."""

from __future__ import annotations

import csv
import itertools

import pytest
import torch
import yaml

from kat.models import load_model
from kat.models.checkpoints.checksum import write_checksum
from kat.training import read_settings
from kat.training.engine import loop
from kat.training.record.run_directory import RESULTS, remove
from tests.cli.commands import QUICK, refused, run

pytestmark = pytest.mark.slow


def test_a_run_that_goes_on_has_its_best_weights_not_those_of_when_it_was_done(tmp_path):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 1) == 0
    best = torch.load(out / "best.ckpt", weights_only=True)
    best["state_dict"]["head.bias"] += 1
    torch.save(best, out / "best.ckpt")
    write_checksum(out / "best.ckpt")
    remove(out, RESULTS)
    model, _ = load_model(out)
    assert torch.equal(model.head.bias, best["state_dict"]["head.bias"])


def test_overwrite_starts_afresh_and_touches_nothing_else(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 2) == 0
    (out / "thesis.txt").write_text("years of work")
    before = (out / "model.safetensors").read_bytes()
    assert "--resume auto" in refused(capsys, *common)
    refused(capsys, *common, "--overwrite", "true", "--optim.betas", "[2, 3]")
    assert (out / "model.safetensors").read_bytes() == before
    assert run(*common, "--epochs", 1, "--overwrite", "true") == 0
    assert len(list(csv.DictReader((out / "history.csv").open()))) == 1
    assert (out / "thesis.txt").read_text() == "years of work"
    line = refused(capsys, "train", "--config", "digits", "--out", tmp_path, "--overwrite")
    assert "not a run" in line


def test_resume_takes_the_runs_own_settings_and_refuses_another_model(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 1) == 0
    steps = torch.load(out / "last.ckpt", weights_only=True)["state"]["step"]
    assert run("train", "--out", out, "--resume", "true", "--epochs", 2) == 0
    assert f"after step {steps}\n" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    settings = (out / "run.yaml").read_text()
    assert yaml.safe_load(settings)["model"]["name"] == "kat_micro_patch2_8"
    line = refused(capsys, *common, "--resume", "true", "--model.name", "vit_micro_patch2_8")
    assert "16 unexpected" in line
    line = refused(capsys, *common, "--resume", "true", "--data.batch_size", 8)
    assert "is now 8: resume with" in line
    line = refused(capsys, *common, "--resume", "true", "--optim.name", "sgd")
    assert "(adamw) does" in line
    assert (out / "run.yaml").read_text() == settings
    (out / "previous.ckpt").unlink()
    (out / "last.ckpt").write_bytes(b"torn")
    line = refused(capsys, *common, "--resume", "true")
    assert "last.ckpt is not" in line


def test_a_run_that_stops_in_its_first_epoch_is_resumed_from_its_start(
    tmp_path, monkeypatch, capsys
):
    out, prepared, calls = tmp_path / "run", loop.prepared, itertools.count()

    def poisoned(run, batch, **options):
        batch = prepared(run, batch, **options)
        if next(calls) == 2:
            batch.images[0] = torch.nan
        return batch

    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "prepared", poisoned)
        assert run(*common, "--epochs", 2, "--no-progress", "--limit_train_batches", 4) == 1
    assert f"{out / 'last_good.ckpt'}." in capsys.readouterr().err
    assert torch.load(out / "last_good.ckpt", weights_only=True)["state"]["step"] == 2
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == 0
    assert run("train", "--out", out, "--resume", "true", "--no-progress") == 0
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == 8
    assert not (out / "last_good.ckpt").exists()
    assert not (out / "divergence.json").exists()


def test_a_run_that_is_resumed_with_its_recipe_keeps_what_neither_says(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--epochs", 3, *QUICK]
    own = ["--optim.ema_decay", 0.9, "--optim.lr", 0.01, "--seed", 3, "--limit_epochs", 1]
    assert run(*common, *own) == 0
    capsys.readouterr()
    assert run(*common, "--resume", "auto") == 0
    settings = read_settings(out)
    assert (settings["seed"], settings["optim"]["ema_decay"]) == (3, 0.9)
    assert settings["optim"]["lr"] == 0.002
    assert "optim.lr=0.002 (0.01 before)" in capsys.readouterr().out
    content = torch.load(out / "last.ckpt", weights_only=True)
    content["state"]["arithmetic"]["threads"] = "99"
    torch.save(content, out / "last.ckpt")
    write_checksum(out / "last.ckpt")
    assert run(*common, "--resume", "auto", "--dry-run") == 0
    assert "99 at the" in capsys.readouterr().err
