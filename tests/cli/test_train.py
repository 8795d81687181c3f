"""``kat train``: what a run leaves, its settings, what is refused."""

from __future__ import annotations

import csv
import json

import pytest
import yaml
from safetensors.torch import load_file

from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.training.settings.recipes import config_from
from tests.cli.commands import QUICK, refused, run
from tests.equality import assert_equal

pytestmark = pytest.mark.slow


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
    assert summary.keys() > {"commit", "processor", "kernel"}
    resolved = yaml.safe_load((digits_run / "run.yaml").read_text())
    assert resolved["epochs"] == 2
    assert resolved["optim"]["lr"] == 0.002


def test_the_resolved_configuration_is_a_recipe_that_gives_the_same_weights(digits_run, tmp_path):
    again = tmp_path / "again"
    assert run("train", "--config", digits_run / "run.yaml", "--out", again) == 0
    first, second = (load_file(out / "model.safetensors") for out in (digits_run, again))
    assert_equal(first, second)


@pytest.mark.parametrize("source", ["", "_from_vit"])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_imagenet_recipes_hold_the_papers_settings(size, source):
    given, _ = parse_training(TrainingParser(), ["--config", f"imagenet_kat_{size}{source}"])
    config = config_from(given)
    assert config.model.name == f"kat_{size}_patch16_224"
    assert config.model.drop_path == (0.4 if size == "base" else 0.1)
    assert bool(config.model.init_from) == bool(source)
    assert (config.epochs, config.optim.name, config.optim.lr) == (300, "adamw", 1e-3)
    assert (config.optim.weight_decay, config.optim.ema_decay) == (0.05, 0.9999)
    augment = config.augment
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augment.auto_augment, augment.random_erasing) == ("rand-m9-mstd0.5", 0.25)
    assert config.data.batch_size * 8 == 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss.class_weights", "even"], "'balanced' or a list"),
        (["--model.init_from", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--model.freeze", "spine"], "'spine' is not a part"),
        (["--data.batch_size", "4000"], "data.batch_size=4000"),
        (["--model.args", "{num_classes: 3}"], "model.args.num_classes is 3"),
        (["--model.name", "kat_det_micro"], "kat_det_micro is for detection"),
        (["--resume", "true"], "holds no run"),
    ],
)
def test_bad_input_of_train_is_one_line_and_writes_nothing(arguments, message, tmp_path, capsys):
    out = tmp_path / "new" / "run"
    line = refused(capsys, "train", "--config", "digits", "--out", out, *arguments)
    assert message in line
    assert not out.parent.exists()


def test_the_state_before_a_divergence_can_be_evaluated_and_started_from(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--config", "digits", "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK]
    diverging = ["--optim.lr", 1e3, "--limit_train_batches", 40, "--optim.clip_grad", 0]
    assert run(*common, "--out", out, *diverging) == 1
    good = out / "last_good.ckpt"
    assert run("eval", good, "--data.name", "digits", "--no-progress") == 0
    again = ["--model.init_from", good, "--optim.lr", 1e-9, "--optim.min_lr", 0]
    # what a rate of 1000 has left may overflow again
    assert run(*common, "--out", tmp_path / "again", *again) in (0, 1)
    assert run(*common, "--out", out, "--overwrite", "true") == 0
    assert not (out / "divergence.json").exists()
    assert not good.exists()
