"""The commands together: one trains, others use what it left; help, unknown names."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import timm

from tests.cli.commands import refused, run
from tests.images import write_folder

pytestmark = pytest.mark.slow


def test_eval_repeats_the_runs_own_number(digits_run, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    assert run("eval", digits_run, "--json", path, "--no-progress") == 0
    metrics = json.loads(path.read_text())
    summary = json.loads((digits_run / "summary.json").read_text())
    assert metrics["top1"] == pytest.approx(summary["top1"], abs=1e-4)
    assert metrics["images"] == 360
    assert f"top-1 {summary['top1']:.2f} %" in capsys.readouterr().out


def test_imagenet_recipe_trains_evaluates_and_predicts(imagenet, tmp_path, capsys):
    out, answers = tmp_path / "run", tmp_path / "answers.json"
    torn = imagenet / "val" / "n03" / "0.jpg"
    (imagenet / "val" / "n03" / "1.jpg").write_bytes(torn.read_bytes())
    torn.write_bytes(b"torn")
    notes = imagenet / "train" / "n00" / "notes.txt"
    notes.write_text("taken in May")
    code = run(
        "train", "--config", "imagenet_kat_tiny", "--data.name", f"folder:{imagenet}",
        "--out", out, "--epochs", 1, "--optim.warmup_epochs", 0, "--limit_train_batches", 2,
        "--data.batch_size", 4, "--data.num_workers", 1, "--no-progress",
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert f"skipped {torn}: it cannot be read as an image" in printed
    assert "2 files skipped" in printed
    assert f"skipped {notes}: it is not named as an image" in printed
    assert run("eval", out, "--no-progress") == 0
    assert "on 10 images (1 files skipped)" in capsys.readouterr().out
    images = sorted((imagenet / "val").rglob("0.jpg"))[:3]
    assert run("predict", *images, "--checkpoint", out, "--json", answers) == 0
    predicted = json.loads(answers.read_text())
    assert [answer["image"] for answer in predicted] == [str(path) for path in images]
    best = [guess["probability"] for guess in predicted[0]["top"]]
    assert best == sorted(best, reverse=True)
    assert predicted[0]["top"][0]["class"] in [f"n{i:02}" for i in range(10)]


def test_results_are_not_computed_for_a_file_that_cannot_be_written(digits_run, tmp_path, capsys):
    for target, says in (("missing/x.json", "does not exist"), ("", "is not a regular file")):
        assert says in refused(capsys, "eval", digits_run, "--json", tmp_path / target)


def test_a_split_without_a_readable_image_is_an_error(imagenet, tmp_path, capsys):
    for path in (imagenet / "val").rglob("*.jpg"):
        path.write_bytes(b"torn")
    options = ("--data.image_size", 32, "--data.batch_size", 20, "--epochs", 1, "--no-progress")
    options += ("--model.name", "kat_micro", "--config", "none")
    command = ("train", "--data", f"folder:{imagenet}", "--out", tmp_path / "run", *options)
    assert run(*command) == 2
    assert "the validation split has no image that can be read" in capsys.readouterr().err
    (imagenet / "train" / "n00" / "0.jpg").write_bytes(b"torn")
    line = refused(capsys, *command, "--overwrite", "--data.bad_images", "fail")
    assert "0.jpg cannot be read as an image" in line


def test_eval_of_another_model_or_data_is_explained(digits_run, imagenet, tmp_path, capsys):
    line = refused(capsys, "eval", tmp_path)
    assert "holds no model" in line
    fewer = tmp_path / "fewer"
    write_folder(fewer, classes=3, train=1, val=1)
    line = refused(capsys, "eval", digits_run, "--data.name", f"folder:{fewer}")
    assert "the model has 10 classes and the data has 3" in line
    renamed = tmp_path / "renamed"
    shutil.copytree(digits_run, renamed)
    config = json.loads((renamed / "config.json").read_text())
    config["label_names"] = [f"class {i}" for i in range(10)]
    (renamed / "config.json").write_text(json.dumps(config))
    line = refused(capsys, "eval", renamed, "--data.name", f"folder:{imagenet}")
    assert "class 0 is 'class 0' in the model and 'n00' in the data" in line
    other = timm.create_model("vit_micro_patch2_8", in_chans=1)
    safetensors.torch.save_file(other.state_dict(), renamed / "model.safetensors")
    line = refused(capsys, "eval", renamed, "--data.name", "digits")
    assert f"does not have the checksum that {renamed / 'config.json'} names" in line
    (renamed / "model.safetensors").rename(renamed / "other.safetensors")
    line = refused(capsys, "eval", renamed / "other.safetensors", "--data.name", "digits")
    assert "16 missing (blocks.0.mlp.act1.weight_numerator" in line
