"""Options: their spellings, wrong values in one line, --quiet, --help."""

from __future__ import annotations

from pathlib import Path

import pytest

from kat.cli.options.parser import Parser, settings_of
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.cli.plot import attention_parser
from kat.errors import InputError
from kat.training import TrainConfig
from tests.cli.commands import refused, run


def settings(*arguments: str) -> TrainConfig:
    return parse_training(TrainingParser("``kat train``: train."), arguments)[0]


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


def test_recipes_and_options_in_turn_the_later_wins():
    config = settings("--epochs", "3", "--config", "digits", "--optim.lr", "5")
    assert (config.epochs, config.optim.lr, config.data.name) == (40, 5, "digits")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--epochs", "few"], "--epochs must be an integer or 'auto', got few"),
        (["--overwrite=perhaps"], "--overwrite must be true or false, got perhaps"),
        (["--optim.betas", "3"], "--optim.betas must be a list, got 3"),
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'?"),
        (["--folds", "5"], "there is no --folds: kat has no k-fold cross-validation; write a"),
        (["--seed"], "argument --seed: expected one argument; 'kat train --help' explains"),
        (["--epochs="], "--epochs must be an integer or 'auto', got nothing"),
        (["digits"], "unrecognized arguments: digits; 'kat train --help' explains"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(arguments, line):
    with pytest.raises(InputError) as error:
        settings(*arguments)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "--config", "KEYS"), "unknown setting 'optim.learning_rate'; did you mean"),
        (("train", "--config", "TWICE"), "write all of 'optim' in one"),
        (("train", "--config", "digit"), "'digit'; did you mean 'digits'? (there are: "),
        (("data", "check", "x", "--num-workers", 0), "--num-workers must be at least 1, got 0"),
        (("predict", "a", "--checkpoint", "x", "--top", "a"), "--top must be an integer, got a"),
        (("predict", "a.png"), "arguments are required: checkpoint; 'kat predict --help' explains"),
        (("eval", "nope"), "nope does not exist"),
        (("report", "nope"), "nope/run.yaml does not exist"),
        (("fit", "gelu", "--degree", 5), "argument --degree: expected 2 arguments; "),
        (("fit", "gelu", "--out", "no/x.json"), "the folder 'no' for x.json does not exist"),
        (("plto",), "unknown command 'plto'; did you mean 'plot'? ('kat --help' lists them)"),
        (("plot", "cots"), "unknown command 'cots'; did you mean 'cost'? ('kat plot --help'"),
    ],
)
def test_bad_options_of_commands_are_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("KEYS").write_text("optim: {learning_rate: 1}")
    Path("TWICE").write_text("optim.lr: 1\noptim: {name: sgd}")
    assert line in refused(capsys, *arguments)


def test_quiet_prints_errors_only(tmp_path, capsys):
    table = tmp_path / "costs.csv"
    assert run("flops", "layers", 8, 8, "--quiet", "--csv", table) == 0
    assert capsys.readouterr() == ("", "")
    assert table.is_file()
    assert "d_in must be" in refused(capsys, "flops", "layers", 0, 8, "--quiet")

    parser = Parser("``kat x``: do nothing.")
    parser.add_common("--progress")
    assert parser.parse_args([]).progress
    assert not parser.parse_args(["--quiet"]).progress
    assert not parser.parse_args(["--no_progress"]).progress
    assert not settings("--quiet").progress


def test_help_all_shows_every_setting_and_help_only_the_most_important(capsys):
    for option in ("--help-all", "--help_all", "--help"):
        with pytest.raises(SystemExit) as stop:
            run("train", option)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        names = [name for name, *_ in settings_of(TrainConfig) if "." in name]
        assert all(f"--{name} " in shown for name in names) == (option != "--help")
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
    assert capsys.readouterr().out.startswith("usage: kat plot COMMAND")
