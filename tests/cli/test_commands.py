"""The commands as a user calls them: a run from start to end, and bad input in one line."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

from kat.checksum import write_checksum
from kat.cli.training_settings import TrainingParser, parse_training
from kat.models import load_model
from kat.tables import open_table
from kat.training.build import Run
from kat.training.run_directory import remove_results
from tests.cli.commands import QUICK, refused, run
from tests.images import noise, png_header, turned, write_fashion_mnist, write_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A finished run on digits, two epochs."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    code = run(
        "train", "--config", "digits", "--out", out, "--epochs", 2,
        "--optim.warmup_epochs", 1, "--no-progress",
    )  # fmt: skip
    assert code == 0
    return out


def test_a_run_leaves_everything_behind(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert names >= {
        "run.yaml", "best.ckpt", "last.ckpt", "model.safetensors", "config.json",
        "history.csv", "summary.json", "metrics.csv", "tensorboard",
    }  # fmt: skip
    assert list((digits_run / "tensorboard").rglob("events*"))
    rows = list(csv.DictReader((digits_run / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row[name]) > 0 for row in rows for name in ("train_loss", "val_loss", "top1"))
    summary = json.loads((digits_run / "summary.json").read_text())
    assert summary["top1"] == max(float(row["top1"]) for row in rows)
    resolved = yaml.safe_load((digits_run / "run.yaml").read_text())
    assert resolved["epochs"] == 2
    assert resolved["optim"]["lr"] == 0.002


def test_the_resolved_configuration_is_a_recipe_that_gives_the_same_weights(digits_run, tmp_path):
    code = run("train", "--config", digits_run / "run.yaml", "--out", tmp_path / "again")
    assert code == 0
    first, second = (
        safetensors.torch.load_file(out / "model.safetensors")
        for out in (digits_run, tmp_path / "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_eval_repeats_the_runs_own_number(digits_run, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    assert run("eval", digits_run, "--json", path, "--no-progress") == 0
    metrics = json.loads(path.read_text())
    summary = json.loads((digits_run / "summary.json").read_text())
    assert metrics["top1"] == pytest.approx(summary["top1"], abs=1e-4)
    assert metrics["images"] == 360
    assert f"top-1 {summary['top1']:.2f} %" in capsys.readouterr().out


def test_eval_of_a_ckpt_and_of_a_bare_model_folder(digits_run, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("model.safetensors", "config.json"):
        (copy / name).write_bytes((digits_run / name).read_bytes())
    for checkpoint in (digits_run / "best.ckpt", copy, copy / "model.safetensors"):
        named = [] if checkpoint.name == "best.ckpt" else ["--data.name", "digits"]
        assert run("eval", checkpoint, "--no-progress", *named) == 0


def test_resume_goes_on_and_keeps_the_history(tmp_path):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 1) == 0
    assert run(*common, "--epochs", 3, "--resume", "true") == 0
    rows = list(csv.DictReader((out / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_a_run_that_goes_on_has_its_best_weights_not_those_of_when_it_was_done(tmp_path):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 1) == 0
    best = torch.load(out / "best.ckpt", weights_only=True)
    best["state_dict"]["head.bias"] += 1
    torch.save(best, out / "best.ckpt")
    write_checksum(out / "best.ckpt")
    remove_results(out)
    model, _ = load_model(out)
    assert torch.equal(model.head.bias, best["state_dict"]["head.bias"])


def test_average_of_the_weights_is_what_is_kept(tmp_path):
    common = ["train", "--config", "digits", "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK]
    for name, decay in (("plain", 0), ("average", 0.9)):
        assert run(*common, "--out", tmp_path / name, "--optim.ema_decay", decay) == 0
    plain = torch.load(tmp_path / "plain" / "best.ckpt", weights_only=True)["state_dict"]
    checkpoint = torch.load(tmp_path / "average" / "best.ckpt", weights_only=True)
    name = "head.weight"
    torch.testing.assert_close(checkpoint["raw_state_dict"][name], plain[name])
    assert not torch.allclose(checkpoint["state_dict"][name], plain[name])


def test_options_of_training_run_together(tmp_path):
    code = run(
        "train", "--config", "digits", "--out", tmp_path / "run", "--epochs", 1,
        "--optim.warmup_epochs", 0, "--precision", "bf16-mixed",
        "--optim.accumulate_grad_batches", 2,
        "--augment.mixup", 0.8, "--augment.cutmix", 1.0, "--augment.random_erasing", 0.25,
        "--augment.auto_augment", "rand-m9-mstd0.5", "--model.grad_checkpointing", "true",
        "--data.batch_size", 33, *QUICK,
    )  # fmt: skip
    assert code == 0


@pytest.fixture
def imagenet(tmp_path):
    """Ten classes in ImageNet's layout: JPEG files of differing sizes and modes."""
    folder = tmp_path / "imagenet"
    write_folder(folder, classes=10, train=2, val=1)
    return folder


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
    assert len(best) == 5
    assert best == sorted(best, reverse=True)
    assert predicted[0]["top"][0]["class"] in [f"n{i:02}" for i in range(10)]
    assert "n0" in capsys.readouterr().out


@pytest.fixture
def idx(tmp_path):
    """Twenty images of Fashion-MNIST's format a split."""
    folder = tmp_path / "idx"
    folder.mkdir()
    write_fashion_mnist(folder, train=20, val=20)
    return folder


def test_predict_goes_on_past_an_unreadable_image(digits_run, imagenet, tmp_path, capsys):
    torn, answers = tmp_path / "torn.jpg", tmp_path / "answers.json"
    torn.write_bytes(b"torn")
    good = imagenet / "val" / "n00" / "0.jpg"
    table = tmp_path / "answers.csv"
    code = run(
        "predict", torn, good, "--checkpoint", digits_run, "--json", answers, "--csv", table,
        "--device", "cpu",
    )  # fmt: skip
    assert code == 2
    first, second = json.loads(answers.read_text())
    assert first["error"].startswith("cannot be read: its format is unknown")
    assert len(second["top"]) == 5
    assert "1 of 2 images cannot be read" in capsys.readouterr().err
    with open_table(table, "predictions") as rows:
        bad, *best = list(rows)
    assert (bad["image"], bad["rank"], bad["error"]) == (str(torn), "", first["error"])
    assert [row["rank"] for row in best] == ["1", "2", "3", "4", "5"]
    assert [float(row["probability"]) for row in best] == [e["probability"] for e in second["top"]]


def test_predict_refuses_a_device_that_is_unavailable(digits_run, imagenet, capsys):
    image = imagenet / "val" / "n00" / "0.jpg"
    line = refused(capsys, "predict", image, "--checkpoint", digits_run, "--device", "cuda:99")
    assert "device 'cuda:99' is unavailable" in line


def test_predict_takes_folders_with_all_that_lies_in_them(digits_run, imagenet, tmp_path, capsys):
    folder, answers = tmp_path / "photos", tmp_path / "answers.json"
    (folder / "more").mkdir(parents=True)
    good = shutil.copy(imagenet / "val" / "n00" / "0.jpg", folder / "more")
    bomb = folder / "bomb.png"
    bomb.write_bytes(png_header(2**20, 2**20))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop").symlink_to(".")
    (folder / "notes.txt").write_text("notes")
    assert run("predict", folder, "--checkpoint", digits_run, "--json", answers) == 2
    first, second = json.loads(answers.read_text())
    assert (first["image"], second["image"]) == (str(bomb), str(good))
    assert first["error"].startswith("cannot be read: ")
    assert len(second["top"]) == 5
    left_out = capsys.readouterr().err.splitlines()
    assert f"{folder / 'pipe.jpg'} is left out: it is a named pipe, not a file" in left_out
    assert any(line.startswith(f"{folder / 'loop'} is left out: it is a link") for line in left_out)
    (tmp_path / "empty").mkdir()
    message = refused(capsys, "predict", tmp_path / "empty", "--checkpoint", digits_run)
    assert "there is no image in" in message


def test_predict_turns_photographs_upright_or_not(digits_run, tmp_path):
    upright = noise("L")
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    upright.save(tmp_path / "upright.png")
    stored.save(tmp_path / "stored.png")
    (tmp_path / "photo.png").write_bytes(turned(upright))
    names = ("upright", "photo", "stored")
    files = [tmp_path / f"{name}.png" for name in names]

    def answers(*options):
        out = tmp_path / "answers.json"
        command = ["predict", *files, "--checkpoint", digits_run, "--json", out, *options]
        assert run(*command) == 0
        return {n: r["top"] for n, r in zip(names, json.loads(out.read_text()), strict=True)}

    default, ignored = answers(), answers("--exif", "ignore")
    assert default["photo"] == default["upright"] != default["stored"]
    assert ignored["photo"] == ignored["stored"] == default["stored"]


def test_training_from_a_vit(tmp_path):
    vit = timm.create_model("vit_micro_patch2_8", in_chans=1)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    code = run(
        "train", "--config", "digits", "--out", tmp_path / "run", "--epochs", 1,
        "--optim.warmup_epochs", 0, "--model.init_from", tmp_path / "vit.safetensors",
        "--optim.lr", 1e-12, "--optim.min_lr", 0, "--optim.weight_decay", 0, *QUICK,
    )  # fmt: skip
    assert code == 0
    state = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in vit.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


@pytest.mark.parametrize(
    "recipe",
    [f"imagenet_kat_{size}{source}" for size in ("tiny", "small", "base")
     for source in ("", "_from_vit")],
)  # fmt: skip
def test_imagenet_recipes_hold_the_papers_settings(recipe):
    config, _ = parse_training(TrainingParser(), ["--config", recipe])
    size = recipe.split("_")[2]
    assert config.model.name == f"kat_{size}_patch16_224"
    assert config.model.drop_path == (0.4 if size == "base" else 0.1)
    assert bool(config.model.init_from) == recipe.endswith("from_vit")
    assert (config.epochs, config.optim.name, config.optim.lr) == (300, "adamw", 1e-3)
    assert (config.optim.weight_decay, config.optim.ema_decay) == (0.05, 0.9999)
    augment = config.augment
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augment.auto_augment, augment.random_erasing) == ("rand-m9-mstd0.5", 0.25)
    assert config.data.batch_size * 8 == 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.name", "kat_tinny_patch16_224"], "unknown model 'kat_tinny_patch16_224'; did"),
        (["--data.name", "digit"], "unknown dataset 'digit'; did you mean 'digits'"),
        (["--config", "digitz"], "unknown recipe (nor is there a file of this name) 'digitz'; did"),
        (["--optim.lrr", "1"], "unknown option '--optim.lrr'; did you mean '--optim.lr'"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--model.args", "{num_groups: 7}"], "is not divisible by num_groups=7"),
        (["--model.args", "{grupps: 4}"], "grupps"),
        (["--model.init_from", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--data.name", "folder:/nowhere"], "the data folder '/nowhere' does not exist"),
        (["--data.name", "fashion_mnist:/nowhere"], "/nowhere/train-images-idx3-ubyte.gz is miss"),
        (["--optim.lr", "-1"], "optim.lr must be above 0 or 'auto', got -1"),
        (["--optim.layer_decay", "1.1"], "optim.layer_decay must be at most 1, got 1.1"),
        (
            ["--optim.clip_coefficients", "0.9"],
            "coefficients=0.9 would change the model at the first",
        ),
        (["--model.freeze", "spine"], "model.freeze: 'spine' is not a part of the model; give"),
        (
            ["--model.name", "auto"],
            "model.name=auto takes the model from a checkpoint: give --init",
        ),
        (["--data.holdout", "1"], "data.holdout must be below 1, got 1"),
        (["--optim.lr", ".nan"], "optim.lr must be a finite number or 'auto', got nan"),
        (["--epochs", "0"], "epochs must be at least 1 or 'auto', got 0"),
        (["--data.batch_size", "0"], "data.batch_size must be at least 1 or 'auto', got 0"),
        (["--data.batch_size", "4000"], "fewer than one batch of data.batch_size=4000"),
        (["--model.drop_path", "1"], "model.drop_path must be below 1, got 1"),
        (
            ["--augment.label_smoothing", "1.5"],
            "augment.label_smoothing must be at most 1, got 1.5",
        ),
        (["--augment.scale", "[0.9, 0.1]"], "augment.scale must be two numbers, the smaller first"),
        (["--epochs", "3", "--limit_val_batches", "0"], "limit_val_batches must be at least 1"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--optim.betas", "[2, 3]"], "optim.betas must be below 1, got (2.0, 3.0)"),
        (["--optim.ema_decay", "1"], "optim.ema_decay must be below 1, got 1"),
        (["--data.crop_pct", "50"], "data.crop_pct must be at most 1 or 'auto', got 50"),
        (["--data.std", "[0]"], "data.std must be above 0 or 'auto', got [0.0]"),
        (["--augment.ratio", "[2, 1]"], "augment.ratio must be two numbers, the smaller first"),
        (["--augment.auto_augment", "nonsense"], "augment.auto_augment='nonsense' is not a policy"),
        (["--data.batch_size", "1", "--augment.mixup", "1"], "at least 2 with mixup or cutmix"),
        (
            ["--model.args", "{num_groups: 0}"],
            "num_groups must be at least 1, or 'channels', got 0",
        ),
        (["--model.args", "{patch_size: 0}"], "cannot be built"),
        (["--model.args", "{num_classes: 3}"], "model.args may not set num_classes"),
        (["--optim.name", "adamm"], "unknown optimizer 'adamm'; did you mean 'adam"),
        (["--accelerator", "abacus"], "abacus"),
        (["--strategy", "telepathy"], "telepathy"),
        (["--strategy", "deepspeed_stage_2"], "deepspeed_stage_2"),
        (["--resume", "true"], "holds no run to resume"),
        (["--resume", "true", "--overwrite", "true"], "exclude each other"),
    ],
)
def test_bad_input_of_train_is_one_line_and_writes_nothing(arguments, message, tmp_path, capsys):
    out = tmp_path / "run"
    first = [] if "--config" in arguments else ["--config", "digits"]
    line = refused(capsys, "train", *first, "--out", out, *arguments)
    assert message in line
    assert not out.exists()


def test_unknown_recipe_key_is_named_with_the_nearest(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optim:\n  learning_rate: 1.0\n  warmup_epoch: 2\n")
    assert "unknown setting in" in refused(capsys, "train", "--config", recipe)
    recipe.write_text("optim:\n  warmup_epoch: 2\n")
    line = refused(capsys, "train", "--config", recipe)
    assert "'optim.warmup_epoch'; did you mean 'optim.warmup_epochs'" in line
    recipe.write_text("optim: 3\n")
    assert "optim in" in refused(capsys, "train", "--config", recipe)
    recipe.write_bytes(b"\xff\xfe\x00")
    assert "is not valid YAML" in refused(capsys, "train", "--config", recipe)
    recipe.write_text("- a\n- b\n")
    assert "is not a recipe" in refused(capsys, "train", "--config", recipe)
    recipe.write_text("a: [")
    assert "is not valid YAML" in refused(capsys, "train", "--config", recipe)


def test_a_folder_that_holds_a_run_is_refused_and_kept(digits_run, capsys):
    before = (digits_run / "model.safetensors").read_bytes()
    line = refused(capsys, "train", "--config", "digits", "--out", digits_run)
    assert "already holds a run; give --resume auto, --overwrite, or another --out" in line
    assert (digits_run / "model.safetensors").read_bytes() == before


def test_a_folder_with_other_things_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    for extra in ([], ["--overwrite", "true"]):
        line = refused(capsys, "train", "--config", "digits", "--out", tmp_path, *extra)
        assert "is not a run directory" in line
    assert (tmp_path / "thesis.txt").exists()


def test_overwrite_starts_afresh_and_touches_nothing_else(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 2) == 0
    (out / "thesis.txt").write_text("years of work")
    before = (out / "model.safetensors").read_bytes()
    refused(capsys, *common, "--overwrite", "true", "--optim.betas", "[2, 3]")
    assert (out / "model.safetensors").read_bytes() == before
    assert run(*common, "--epochs", 1, "--overwrite", "true") == 0
    assert len(list(csv.DictReader((out / "history.csv").open()))) == 1
    assert (out / "thesis.txt").read_text() == "years of work"
    line = refused(capsys, "train", "--config", out / "run.yaml")
    assert "already holds a run" in line


def test_resume_takes_the_runs_own_settings_and_refuses_another_model(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--out", out, "--optim.warmup_epochs", 0, *QUICK]
    assert run(*common, "--epochs", 1) == 0
    assert run("train", "--out", out, "--resume", "true", "--epochs", 2) == 0
    settings = (out / "run.yaml").read_text()
    assert yaml.safe_load(settings)["model"]["name"] == "kat_micro_patch2_8"
    line = refused(capsys, *common, "--resume", "true", "--model.name", "vit_micro_patch2_8")
    assert "last.ckpt holds the weights of another model: 16 unexpected" in line
    assert (out / "run.yaml").read_text() == settings
    (out / "previous.ckpt").unlink()
    (out / "last.ckpt").write_bytes(b"torn")
    line = refused(capsys, *common, "--resume", "true")
    assert "can be resumed: " in line
    assert "last.ckpt is damaged: the checksum at its end is missing" in line
    (out / "last.ckpt").unlink()
    (out / "last.ckpt").mkdir()
    line = refused(capsys, *common, "--resume", "true")
    assert "last.ckpt cannot be read: it is a folder, not a file" in line


def test_two_processes_train_on_halves_and_write_once(tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "kat_command", "train", "--config", "digits", "--out", str(out),
        "--epochs", "1", "--optim.warmup_epochs", "0", "--accelerator", "cpu", "--devices", "2",
        "--no-progress", "--limit_train_batches", "3",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best top-1") == 1
    summary = json.loads((out / "summary.json").read_text())
    assert run("eval", out, "--no-progress") == 0
    assert f"top-1 {summary['top1']:.2f} %" in capsys.readouterr().out
    assert yaml.safe_load((out / "run.yaml").read_text())["epochs"] == 1


def test_unreadable_images_are_fatal_on_request(imagenet, tmp_path, capsys):
    (imagenet / "train" / "n00" / "0.jpg").write_bytes(b"torn")
    line = refused(
        capsys, "train", "--data.name", f"folder:{imagenet}", "--data.image_size", 32,
        "--data.batch_size", 20, "--epochs", 1, "--out", tmp_path / "run",
        "--data.bad_images", "fail", "--no-progress",
    )  # fmt: skip
    assert "0.jpg cannot be read as an image" in line


def test_results_are_not_computed_for_a_file_that_cannot_be_written(digits_run, tmp_path, capsys):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    for command in (["eval", digits_run], ["predict", picture, "--checkpoint", digits_run]):
        for target in (tmp_path / "missing" / "x.json", tmp_path):
            line = refused(capsys, *command, "--json", target)
            assert "does not exist" in line or "is a folder" in line
    line = refused(capsys, "predict", picture, "--checkpoint", digits_run, "--top", 0)
    assert "--top must be at least 1, got 0" in line
    line = refused(capsys, "eval", digits_run, "--data.num_workers", -1)
    assert "data.num_workers must be at least 0, got -1" in line


def test_a_split_without_a_readable_image_is_an_error(imagenet, tmp_path, capsys):
    for path in (imagenet / "val").rglob("*.jpg"):
        path.write_bytes(b"torn")
    code = run(
        "train", "--data.name", f"folder:{imagenet}", "--data.image_size", 32, "--epochs", 1,
        "--data.batch_size", 20, "--out", tmp_path / "run", "--no-progress",
    )  # fmt: skip
    assert code == 2
    assert "the validation split has no image that can be read" in capsys.readouterr().err


def test_eval_of_another_model_or_data_is_explained(digits_run, imagenet, idx, tmp_path, capsys):
    line = refused(capsys, "eval", tmp_path)
    assert "name the dataset to evaluate on with --data" in line
    line = refused(capsys, "eval", tmp_path, "--data.name", "digits")
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
    line = refused(capsys, "eval", renamed, "--data.name", f"fashion_mnist:{idx}")
    assert "class 0 is 'class 0' in the model and 'T-shirt/top' in the data" in line
    copy = tmp_path / "mixed"
    copy.mkdir()
    (copy / "config.json").write_bytes((digits_run / "config.json").read_bytes())
    other = timm.create_model("vit_micro_patch2_8", in_chans=1)
    safetensors.torch.save_file(other.state_dict(), copy / "model.safetensors")
    line = refused(capsys, "eval", copy, "--data.name", "digits")
    assert "16 missing (blocks.0.mlp.act1.weight_numerator" in line


@pytest.mark.parametrize("log_every_n_steps", [1, 1000])
def test_a_diverged_run_stops_in_one_line_before_it_is_kept(tmp_path, capsys, log_every_n_steps):
    out = tmp_path / "run"
    code = run(
        "train", "--config", "digits", "--out", out, "--epochs", 3,
        "--optim.warmup_epochs", 0, "--optim.lr", 1e18, "--optim.clip_grad", 0,
        "--log_every_n_steps", log_every_n_steps, "--no-progress",
    )  # fmt: skip
    assert code == 1
    message = capsys.readouterr().err
    assert message.startswith("kat: the loss is nan at step")
    assert "is the first layer that is not finite" in message
    assert "lower optim.lr" in message
    assert message.count("\n") == 1
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == 0
    assert not (out / "best.ckpt").exists()
    assert json.loads((out / "divergence.json").read_text())["message"] in message


def test_the_state_before_a_divergence_can_be_evaluated_and_started_from(tmp_path, capsys):
    out = tmp_path / "run"
    common = [
        "train", "--config", "digits", "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK
    ]  # fmt: skip
    diverging = ["--optim.lr", 1e3, "--limit_train_batches", 40, "--optim.clip_grad", 0]
    assert run(*common, "--out", out, *diverging) == 1
    good = out / "last_good.ckpt"
    assert run("eval", good, "--data.name", "digits", "--no-progress") == 0
    again = ["--model.init_from", good, "--optim.lr", 1e-9, "--optim.min_lr", 0]
    code = run(*common, "--out", tmp_path / "again", *again)
    assert code in (0, 1)  # what a rate of 1000 has left may overflow again
    assert run(*common, "--out", out, "--overwrite", "true") == 0
    assert not (out / "divergence.json").exists()
    assert not good.exists()


def test_a_run_that_stops_in_its_first_epoch_is_resumed_from_its_start(
    tmp_path, monkeypatch, capsys
):
    out, prepared, calls = tmp_path / "run", Run.prepared, itertools.count()

    def poisoned(run, batch, **options):
        batch = prepared(run, batch, **options)
        if next(calls) == 2:
            batch.images[0] = torch.nan
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Run, "prepared", poisoned)
        code = run(
            "train", "--config", "digits", "--out", out, "--epochs", 2, "--no-progress",
            "--optim.warmup_epochs", 0, "--limit_train_batches", 4,
        )  # fmt: skip
    assert code == 1
    assert f"The state before it is in {out / 'last_good.ckpt'}." in capsys.readouterr().err
    assert torch.load(out / "last_good.ckpt", weights_only=True)["state"]["step"] == 2
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == 0
    assert run("train", "--out", out, "--resume", "true", "--no-progress") == 0
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == 8
    assert not (out / "last_good.ckpt").exists()
    assert not (out / "divergence.json").exists()


def test_unknown_command_is_named_with_the_nearest(capsys):
    assert run("trian") == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["eval"], ["predict"], ["export"], ["fit"], ["verify"], ["stability"]],
)
def test_help_teaches(command):
    result = subprocess.run(
        [sys.executable, "-m", "kat_command", *command, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "usage: kat" in result.stdout
    assert result.stderr == ""
