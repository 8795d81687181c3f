"""The command line itself: spellings, short forms, switches, errors, --quiet."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kat.cli.parsing import Parser, run_command, setting_defaults
from kat.cli.plot import attention
from kat.cli.training_settings import TrainingParser, parse_training
from kat.errors import CheckpointFailed, InputError, OutputFailed
from kat.training import TrainConfig
from tests.cli.commands import refused, run
from tests.processes import start


def settings(*arguments: str) -> TrainConfig:
    return parse_training(TrainingParser("``kat train``: train."), arguments)[0]


@pytest.mark.parametrize("size", ["--image-size=8", "--image_size=8"])
def test_hyphens_and_underscores_mean_the_same(size):
    assert attention.make_parser().parse_args(["runs/x", size]).image_size == 8


def test_so_they_do_in_settings():
    words = ("--data.num-workers", "3", "--model.drop_path", "0.1", "--limit-epochs", "2")
    config = settings(*words)
    assert (config.data.num_workers, config.model.drop_path, config.limit_epochs) == (3, 0.1, 2)
    assert config == settings(*(word.replace("-", "_").replace("__", "--") for word in words))


def test_the_short_forms_of_settings():
    config = settings(
        "--data=coco:x", "--init-from", "runs/vit", "--monitor", "--device", "cuda"
    )  # fmt: skip
    assert (config.data.name, config.model.init_from) == ("coco:x", "runs/vit")
    assert (config.monitor.enabled, config.accelerator) == (True, "gpu")


def test_settings_that_are_true_or_false_may_stand_alone():
    config = settings("--overwrite", "--no-progress", "--model.compile", "--resume", "auto")
    assert (config.overwrite, config.progress, config.model.compile) == (True, False, True)
    assert config.resume == "auto"
    assert settings("--resume").resume is True
    assert settings("--monitor", "false").monitor.enabled is False


def test_the_words_after_loggers_are_a_list():
    for words in (["wandb", "mlflow"], ["[wandb,", "mlflow]"], ["[wandb,mlflow]"]):
        assert settings("--loggers", *words, "--epochs", "3").loggers == ["wandb", "mlflow"]


def test_recipes_and_options_in_turn_the_later_wins():
    config = settings("--epochs", "3", "--config", "digits", "--optim.lr", "5")
    assert (config.epochs, config.optim.lr, config.data.name) == (40, 5, "digits")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--epochs", "few"], "epochs must be an integer or 'auto', got few"),
        (["--strategy", "magic"], "strategy must be 'auto', 'ddp' or 'fsdp', got magic"),
        (["--overwrite=perhaps"], "overwrite must be true or false, got perhaps"),
        (["--optim.betas", "3"], "optim.betas must be a list, got 3"),
        (["--model.args", "3"], "model.args must be a mapping, got 3"),
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'?"),
        (["--seed"], "argument --seed: expected one argument"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(arguments, line):
    with pytest.raises(InputError) as error:
        settings(*arguments)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("predict", "a.png", "--checkpoint", "x", "--top", 0), "--top must be at least 1, got 0"),
        (("plot", "cost", "x", "--x", "flop"), "unknown --x 'flop'; did you mean 'flops'?"),
        (("fit", "gelu", "--out", "no/x.json"), "the folder 'no' for x.json does not exist"),
        (("plto",), "unknown command 'plto'; did you mean 'plot'? ('kat --help' lists them)"),
        (("plot", "cots"), "unknown command 'cots'; did you mean 'cost'? ('kat plot --help'"),
    ],
)
def test_bad_options_of_commands_are_one_line(arguments, line, capsys):
    assert line in refused(capsys, *arguments)


def test_quiet_prints_errors_only(tmp_path, capsys):
    table = tmp_path / "costs.csv"
    assert run("flops", "layers", 8, 8, "--quiet", "--csv", table) == 0
    assert capsys.readouterr() == ("", "")
    assert table.is_file()
    assert "num_groups" in refused(capsys, "flops", "layers", 12, 8, "--quiet")


def test_quiet_shows_no_progress_bar():
    parser = Parser("``kat x``: do nothing.")
    parser.add_progress()
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
        names = [name for name, _ in setting_defaults(TrainConfig) if "." in name]
        assert all(f"--{name} " in shown for name in names) == (option != "--help")
        assert "--optim.poly_power" not in shown or option != "--help"


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\nvalue"), 2, "bad value"),
        (CheckpointFailed("full"), 1, "full"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "x: File name too long"),
        (MemoryError(), 1, "there is not enough memory: MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_not_a_fault_of_kat_is_one_line(capsys, error, code, line):
    assert run_command(failing(error)) == code
    assert capsys.readouterr().err == f"kat: {line}\n"


def test_a_fault_of_kat_is_one_line_with_the_file_of_its_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(failing(ZeroDivisionError("by\nzero"))) == 1
    line = capsys.readouterr().err
    match = re.fullmatch(
        r"kat: a fault of kat's own: ZeroDivisionError: by; the traceback is in (\S+);"
        r" please report it\n",
        line,
    )
    kept = Path(match[1]).read_text()
    assert kept.startswith("kat ")
    assert "in command" in kept
    assert run_command(failing(ZeroDivisionError()), debug=True) == 1
    assert capsys.readouterr().err.startswith("Traceback")


def test_answers_that_cannot_be_written_are_printed(capsys):
    full = OutputFailed("x.json", OSError(errno.ENOSPC, "No space left on device"), "[1]\n")
    assert run_command(failing(full), quiet=True) == 1
    printed = capsys.readouterr()
    assert printed.out == "[1]\n"
    assert printed.err == (
        "kat: x.json cannot be written: No space left on device; its contents are on standard"
        " output\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("flops", "models"), ("train", "--help")])
def test_a_reader_that_goes_away_ends_a_command_quietly(arguments):
    process = start(*arguments, bufsize=1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_standard_output_is_one_line():
    command = [sys.executable, "-m", "kat_command", "flops", "models"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "kat: No space left on device\n"
