"""Options: their spellings, wrong values in one line, --quiet, --help."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from kat.cli.commands.plot import attention_parser
from kat.cli.options.parser import settings_of
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.errors import InputError
from kat.training import TrainConfig
from kat.training.settings.recipes import config_from
from tests.cli.commands import refused, run
from tests.images import noise, write_folder


def settings(*arguments: str) -> TrainConfig:
    given, _ = parse_training(TrainingParser("``kat train``: train."), arguments)
    return config_from(given)


def test_hyphens_and_underscores_mean_the_same():
    for size in ("--image-size=8", "--image_size=8"):
        assert attention_parser().parse_args(["runs/x", size]).image_size == 8
    words = ("--data.num-workers", "3", "--model.drop_path", "0.1", "--limit-epochs", "2")
    config = settings(*words)
    assert (config.data.num_workers, config.model.drop_path, config.limit_epochs) == (3, 0.1, 2)
    assert config == settings(*(word.replace("-", "_").replace("__", "--") for word in words))


def test_the_short_forms_of_settings():
    words = ("--data=coco:x", "--model", "kat_micro", "--init-from", "runs/vit", "--monitor")
    config = settings(*words, "--device", "cuda")
    model = config.model
    assert (config.data.name, model.name, model.init_from) == ("coco:x", "kat_micro", "runs/vit")
    assert (config.monitor.enabled, config.accelerator) == (True, "cuda")


def test_settings_that_are_true_or_false_may_stand_alone():
    config = settings("--overwrite", "--no-progress", "--model.compile")
    assert (config.overwrite, config.progress, config.model.compile) == (True, False, True)
    assert settings("--resume", "auto").resume == "auto"
    assert settings("--resume").resume is True
    assert settings("--monitor", "false").monitor.enabled is False


def test_the_words_after_loggers_are_a_list():
    assert settings("--loggers", "wandb", "mlflow", "--epochs", "3").loggers == ["wandb", "mlflow"]
    assert settings().loggers == []


def test_options_win_over_recipes_wherever_they_stand():
    config = settings("--epochs", "3", "--config", "digits", "--optim.lr", "5")
    assert (config.epochs, config.optim.lr, config.data.name) == (3, 5, "digits")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--epochs", "few"], "--epochs must be an integer or 'auto', got few"),
        (["--overwrite=perhaps"], "--overwrite must be true or false, got perhaps"),
        (["--optim.betas", "3"], "--optim.betas must be a list, got 3"),
        (["--folds", "5"], "there is no --folds: kat has no k-fold cross-validation; write a"),
        (["--seed"], "argument --seed: expected one argument; 'kat train --help' explains"),
        (["--epochs="], "--epochs must be an integer or 'auto', got nothing"),
        (["digits"], "unrecognized arguments: digits; 'kat train --help' explains"),
        (["--imgsz", "64"], "unknown option '--imgsz'; did you mean '--data.image_size'?"),
        (["--class-weights", "1"], "unknown option '--class_weights'; did you mean '--loss.class_"),
        (
            ["--precision", "fp16"],
            "--precision must be '32-true', 'bf16-mixed', '16-mixed' (fp16) or '64-true', got fp16",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(arguments, line):
    with pytest.raises(InputError) as error:
        settings(*arguments)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "--config", "digit"), "'digit'; did you mean 'digits'? (there are: "),
        (("data", "check", "x", "--num-workers", 0), "--num-workers must be at least 1, got 0"),
        (("predict", "a", "--checkpoint", "x", "--top", "a"), "--top must be an integer, got a"),
        (("predict", "a.png"), "arguments are required: checkpoint; 'kat predict --help' explains"),
        (("fit", "gelu", "--degree", 5), "argument --degree: expected 2 arguments; "),
        (("train", "--config", "SYNTAX"), "SYNTAX is not valid YAML: mapping values are not"),
        (("train", "--config", "TYPO"), "unknown setting 'data.nme'; did you mean 'data.name'?"),
        (("train", "--config", "UTF16"), "UTF16 cannot be read: it is not text in UTF-8: "),
        (
            ("predict", "a.png", "--checkpoint", "a.png"),
            ".save, as the .ckpt or .pth file of a model is",
        ),
        (("train", "--augment.auto_augment", "randaug"), "such as rand-m9-mstd0.5, augmix-m3-w3"),
        (("data", "check", "digits", "--data.holdout", "0"), "did you mean '--data.root'?"),
        (("plto",), "unknown command 'plto'; did you mean 'plot'? (there are: ablate, "),
        (("train", "--data", "digits", "--model", "kat_tinny"), "mean 'kat_tiny_patch16_224'?"),
        (
            ("predict", "a.png", "--checkpoint", "digitz"),
            "digitz does not exist; did you mean 'dig",
        ),
        (("plot", "cots"), "unknown command 'plot cots'; did you mean 'plot cost'?"),
    ],
)
def test_bad_options_of_commands_are_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("SYNTAX").write_text("data:\n  name: x\n   root: y")
    Path("TYPO").write_text("data: {nme: x}")
    Path("UTF16").write_text("epochs: 3", encoding="utf-16")
    noise().save("a.png")
    assert line in refused(capsys, *arguments)


def test_quiet_prints_only_the_result(tmp_path, capsys):
    images = tmp_path / "images"
    write_folder(images, classes=2, train=4, val=2)
    for name in ("n00/0", "n01/1"):
        (images / "train" / f"{name}.jpg").write_bytes(b"torn")
    (images / "val" / "n00" / "0.jpg").write_bytes(b"torn")
    common = ("--data", f"folder:{images}", "--device", "cpu", "--data.num_workers", 0)
    small = ("--model", "kat_micro", "--model.args", "{depth: 1, patch_size: 8}")
    size = ("--data.image_size", 16, "--data.batch_size", 4, "--epochs", 1)
    assert run("train", *common, *small, *size, "--quiet", "--out", tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert (printed.out[:11], printed.out.count("\n"), printed.err) == ("best top-1 ", 1, "")
    with (tmp_path / "run" / "skipped.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    assert run("eval", tmp_path / "run", "--device", "cpu", "--quiet") == 0
    assert capsys.readouterr().out.startswith(f"folder:{images}: top-1 ")


def test_help_all_shows_every_setting_and_help_only_the_most_important(capsys):
    for option in ("--help-all", "--help_all", "--help"):
        with pytest.raises(SystemExit) as stop:
            run("train", option)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        names = [name for name, *_ in settings_of(TrainConfig) if "." in name]
        assert all(re.search(f"--{n}[ ,]", shown) for n in names) == (option != "--help")
        assert "--optim.poly_power" not in shown or option != "--help"


@pytest.mark.parametrize("words", [("eval",), ("plot", "curves")])
def test_help_may_come_first(words, capsys):
    shown = []
    for arguments in (("help", *words), (*words, "--help")):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert run("help", "plot") == 0
    assert "kat plot COMMAND" in capsys.readouterr().out
