"""W&B and MLflow: offline with the real packages where they are installed, and with stand-ins."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from lightning.pytorch.loggers import Logger

from kat.training import TrainConfig, loggers
from tests.cli.commands import refused, run

QUICK = (
    "train", "--config", "digits", "--optim.warmup_epochs", 0, "--limit_val_batches", 1,
    "--data.batch_size", 32, "--limit_train_batches", 2, "--log_every_n_steps", 1,
)  # fmt: skip


class Recorder(Logger):
    """Keeps what it is given."""

    made: list[Recorder] = []  # noqa: RUF012

    def __init__(self, version):
        super().__init__()
        self.run, self.settings, self.rows, self.ends = version, {}, [], []
        Recorder.made.append(self)

    name = "recorder"

    @property
    def version(self):
        return self.run

    def log_hyperparams(self, params):
        self.settings.update(params)

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def finalize(self, status):
        self.ends.append(status)


@pytest.fixture
def services(monkeypatch):
    """Both services, replaced by recorders; a run that has no id yet is given one."""
    Recorder.made = []
    numbers = iter(range(100))
    opener = lambda out, run: Recorder(run or f"run{next(numbers)}")  # noqa: E731
    monkeypatch.setattr(loggers, "_OPEN", {"wandb": opener, "mlflow": opener})
    monkeypatch.setattr(loggers, "_is_installed", lambda module: True)
    monkeypatch.setattr(loggers, "_check_account", lambda: None)


def test_services_get_settings_and_metrics_and_a_resumed_run_keeps_its_ids(services, tmp_path):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 1, "--loggers", "wandb", "mlflow") == 0
    ids = {"wandb": "run0", "mlflow": "run1"}
    assert json.loads((out / "loggers.json").read_text()) == ids
    assert run("train", "--out", out, "--resume", "true", "--epochs", 2) == 0
    assert json.loads((out / "loggers.json").read_text()) == ids
    first, second, third, fourth = Recorder.made
    assert [logger.run for logger in (third, fourth)] == ["run0", "run1"]
    assert first.settings["model"]["name"] == "kat_micro_patch2_8"
    assert third.settings["epochs"] == 2
    assert fourth.settings == {}  # MLflow refuses another value of a setting
    steps = [(step, m["train/loss_step"]) for step, m in third.rows if "train/loss_step" in m]
    assert [step for step, _ in steps] == [2, 3]
    names = {name for _, metrics in second.rows for name in metrics}
    assert {"val/top1", "val/top5", "train/loss", "speed/images_per_second"} <= names
    assert [logger.ends[-1] for logger in Recorder.made] == ["success"] * 4


def test_csv_and_tensorboard_have_the_settings_too(tmp_path):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 1) == 0
    settings = yaml.safe_load((out / "csv/version_0/hparams.yaml").read_text())
    assert settings["optim"]["lr"] == 0.002
    assert settings == yaml.safe_load((out / "run.yaml").read_text())
    assert not (out / "loggers.json").exists()


def test_overwriting_a_run_starts_new_runs_of_the_services(services, tmp_path):
    common = (*QUICK, "--out", tmp_path / "run", "--epochs", 1, "--loggers", "wandb")
    assert run(*common) == 0
    assert run(*common, "--overwrite", "true") == 0
    assert json.loads((tmp_path / "run/loggers.json").read_text()) == {"wandb": "run1"}


def test_what_is_not_installed_is_named_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loggers, "_is_installed", lambda module: module == "mlflow")
    for service, message in (
        ("wandb", "loggers=wandb needs wandb: pip install wandb"),
        ("mlflow", "needs sqlalchemy, alembic: pip install mlflow-skinny sqlalchemy alembic"),
    ):
        line = refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", service)
        assert message in line
    assert "comet" in refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", "comet")
    assert not (tmp_path / "run").exists()


def test_wandb_without_an_account_is_refused_unless_it_is_offline(tmp_path, capsys, monkeypatch):
    settings, known = SimpleNamespace(mode="online"), SimpleNamespace(account=False)
    wandb = SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=settings), login=lambda prompt: known.account
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(loggers, "_is_installed", lambda module: True)
    line = refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", "wandb")
    assert "loggers=wandb needs an account: wandb login, or WANDB_MODE=offline" in line
    assert not (tmp_path / "run").exists()
    config = TrainConfig(loggers=["wandb"])
    known.account = True
    loggers.check_services(config)
    settings.mode, known.account = "offline", False
    loggers.check_services(config)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_runs_here").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("wandb_runs_here") is not None
    assert not loggers._is_installed("wandb_runs_here")
    assert loggers._is_installed("json")


def test_a_service_that_refuses_is_one_line(services, tmp_path, capsys, monkeypatch):
    def refuse(out, run):
        raise RuntimeError("no API key\nand more")

    monkeypatch.setattr(loggers, "_OPEN", {"wandb": refuse})
    line = refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", "wandb")
    assert line == "kat: loggers=wandb cannot be used: no API key\n"


def test_a_run_of_wandb_ends_with_the_training_run():
    ends = []
    logger = loggers.WandbRun.__new__(loggers.WandbRun)
    logger._checkpoint_callbacks = {}
    for status, code in (("success", 0), ("failed", 1)):
        logger._experiment = SimpleNamespace(finish=lambda exit_code: ends.append(exit_code))
        logger.finalize(status)
        logger.finalize(status)
        assert ends.pop() == code
        assert not ends


def _installed(*modules):
    return all(map(loggers._is_installed, modules))


@pytest.mark.skipif(not _installed("wandb"), reason="wandb is not installed")
def test_wandb_offline_goes_on_with_its_run(tmp_path):
    out = tmp_path / "run"
    common = [*map(str, QUICK), "--out", str(out), "--loggers", "wandb"]
    code = f"""
import kat_command
for more in (["--epochs", "1"], ["--epochs", "2", "--resume", "true"]):
    assert kat_command.main({common!r} + more) == 0
"""  # a process of its own: W&B takes hold of stdout
    environment = os.environ | {"WANDB_MODE": "offline"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    (run_id,) = json.loads((out / "loggers.json").read_text()).values()
    folders = list((out / "wandb").glob("offline-run-*"))
    assert folders  # two, unless they began in the same second
    assert all(folder.name.endswith(run_id) for folder in folders)
    assert all(list(folder.glob("*.wandb")) for folder in folders)


@pytest.mark.skipif(
    not _installed("mlflow", "sqlalchemy", "alembic"), reason="mlflow is not installed"
)
def test_mlflow_keeps_one_run_in_the_folder(tmp_path):
    from mlflow.tracking import MlflowClient

    out = tmp_path / "run"
    common = (*QUICK, "--out", out, "--loggers", "mlflow")
    assert run(*common, "--epochs", 1) == 0
    assert run(*common, "--epochs", 2, "--resume", "true") == 0
    client = MlflowClient(f"sqlite:///{out / 'mlflow/mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "kat")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == json.loads((out / "loggers.json").read_text())["mlflow"]
    assert found.info.status == "FINISHED"
    assert found.data.params["optim/lr"] == "0.002"
    history = client.get_metric_history(found.info.run_id, "val/top1")
    assert [point.step for point in history] == [1, 3]
