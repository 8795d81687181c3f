"""W&B and MLflow: offline with the real packages where they are installed, and with stand-ins."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kat.extras import is_installed
from kat.training.callbacks import loggers
from kat.training.callbacks.loggers import CsvLogger, TensorBoardLogger
from kat.training.record.run import Logger
from tests.cli.commands import refused, run

pytestmark = pytest.mark.slow

QUICK = (
    "train", "--config", "digits", "--optim.warmup_epochs", 0, "--limit_val_batches", 1,
    "--data.batch_size", 32, "--limit_train_batches", 2, "--log_every_n_steps", 1,
)  # fmt: skip


class Recorder(Logger):
    """Keeps what it is given."""

    made: list[Recorder] = []  # noqa: RUF012

    def __init__(self, run_id):
        self.run_id, self.settings, self.rows, self.ends = run_id, {}, [], []
        Recorder.made.append(self)

    def log(self, values, step):
        self.rows.append((step, values))

    def log_settings(self, settings):
        self.settings = settings

    def close(self, status):
        self.ends.append(status)


@pytest.fixture
def services(monkeypatch):
    """Both services, replaced by recorders; a run that has no id yet is given one."""
    Recorder.made = []
    numbers = iter(range(100))
    opener = lambda out, run_id: Recorder(run_id or f"run{next(numbers)}")  # noqa: E731
    monkeypatch.setattr(loggers, "SERVICES", {"wandb": opener, "mlflow": opener})
    monkeypatch.setattr(loggers, "require", lambda package, what: None)
    offline = SimpleNamespace(settings=SimpleNamespace(mode="offline"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(setup=lambda: offline))


def test_services_get_settings_and_metrics_and_a_resumed_run_keeps_its_ids(services, tmp_path):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 1, "--loggers", "wandb", "mlflow") == 0
    ids = {"wandb": "run0", "mlflow": "run1"}
    assert json.loads((out / "loggers.json").read_text()) == ids
    assert run("train", "--out", out, "--resume", "true", "--epochs", 2) == 0
    assert json.loads((out / "loggers.json").read_text()) == ids
    first, second, third, fourth = Recorder.made
    assert [logger.run_id for logger in (third, fourth)] == ["run0", "run1"]
    assert first.settings["model"]["name"] == "kat_micro_patch2_8"
    assert third.settings["epochs"] == 2
    steps = [(step, m["train/loss_step"]) for step, m in third.rows if "train/loss_step" in m]
    assert [step for step, _ in steps] == [2, 3]
    names = {name for _, metrics in second.rows for name in metrics}
    assert {"val/top1", "val/top5", "train/loss", "speed/images_per_second"} <= names
    assert [logger.ends for logger in Recorder.made] == [["finished"]] * 4


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, capsys, monkeypatch):
    for package, installed_as in (("wandb", "wandb"), ("mlflow", "mlflow-skinny")):
        monkeypatch.setitem(sys.modules, package, None)
        line = refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", package)
        assert f"needs the package {installed_as}" in line
    assert "comet" in refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", "comet")
    assert not (tmp_path / "run").exists()


def test_wandb_without_an_account_is_refused_unless_it_is_offline(tmp_path, capsys, monkeypatch):
    settings, known = SimpleNamespace(mode="online"), SimpleNamespace(account=False)
    wandb = SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=settings), login=lambda prompt: known.account
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(loggers, "require", lambda package, what: None)
    line = refused(capsys, *QUICK, "--out", tmp_path / "run", "--loggers", "wandb")
    assert "WANDB_MODE=offline" in line
    assert not (tmp_path / "run").exists()
    known.account = True
    loggers.check_services(["wandb"])
    settings.mode, known.account = "offline", False
    loggers.check_services(["wandb"])


def test_after_a_refusal_nothing_is_open_and_the_same_command_may_be_given_again(
    services, tmp_path, capsys, monkeypatch
):
    command = (*QUICK, "--out", tmp_path / "run", "--epochs", 1, "--loggers", "wandb", "mlflow")
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "log_settings", _refuse_the_second)
        assert "loggers=mlflow cannot be" in refused(capsys, *command)
    assert [logger.ends for logger in Recorder.made] == [["failed"]] * 2
    assert not (tmp_path / "run").exists()
    assert run(*command) == 0


def _refuse_the_second(recorder, settings):
    if len(Recorder.made) == 2:
        raise RuntimeError("is down")


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1)])
def test_a_run_of_wandb_ends_with_the_training_run(tmp_path, monkeypatch, status, code):
    init = Mock()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    logger = loggers.WandbLogger(tmp_path, "abc")
    logger.log({"val/top1": 50.0}, 7)
    logger.close(status)
    assert {"id": "abc", "resume": "allow"}.items() <= init.call_args.kwargs.items()
    made = init.return_value
    made.define_metric.assert_called_once_with("*", step_metric="step")
    made.log.assert_called_once_with({"val/top1": 50.0, "step": 7})
    made.finish.assert_called_once_with(exit_code=code)


def _installed(*modules):
    return all(map(is_installed, modules))


@pytest.mark.skipif(not _installed("wandb"), reason="wandb is not installed")
def test_wandb_offline_continues_its_run(tmp_path):
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
    assert client.get_experiment(found.info.experiment_id).artifact_location.startswith("file:")


def _rows(path):
    with path.open(newline="") as file:
        return [{n: v for n, v in row.items() if v} for row in csv.DictReader(file)]


def test_csv_has_a_row_for_each_step_and_a_column_for_each_name(tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv", 0)
    logger.log({"epoch": 0, "train/loss_step": 0.1 + 0.2}, 1)
    logger.log({"epoch": 0, "train/loss_step": 1e-30}, 3)
    logger.log({"epoch": 0, "val/top1": 12.5}, 3)
    logger.log({"epoch": 1, "train/loss_step": 2.0}, 5)
    logger.close("finished")
    assert _rows(tmp_path / "metrics.csv") == [
        {"step": "1", "epoch": "0", "train/loss_step": repr(0.1 + 0.2)},
        {"step": "3", "epoch": "0", "train/loss_step": "1e-30", "val/top1": "12.5"},
        {"step": "5", "epoch": "1", "train/loss_step": "2.0"},
    ]


def test_a_resumed_csv_drops_the_rows_of_steps_that_are_taken_again(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path, 0)
    for step in range(6):
        logger.log({"epoch": 0, "loss": float(step)}, step)
    resumed = CsvLogger(path, 4)
    assert [row["step"] for row in _rows(path)] == ["0", "1", "2", "3"]
    resumed.log({"epoch": 0, "loss": 40.0, "lr": 0.5}, 4)
    resumed.log({"epoch": 0, "loss": 50.0, "lr": 0.5}, 5)
    assert [row["loss"] for row in _rows(path)] == ["0.0", "1.0", "2.0", "3.0", "40.0", "50.0"]
    assert [row.get("lr") for row in _rows(path)] == [None] * 4 + ["0.5", "0.5"]
    begun_again = CsvLogger(path, 0)
    begun_again.log({"loss": 1.0}, 0)
    assert _rows(path) == [{"step": "0", "loss": "1.0"}]


@pytest.mark.parametrize("torn", ["1", "4,0", "4,0,1."])
def test_a_row_that_was_cut_off_is_no_row(tmp_path, torn):
    """A killed writer leaves half a row; whole rows are kept."""
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path, 0)
    for step in range(4):
        logger.log({"epoch": 0, "loss": float(step)}, step)
    path.write_text(path.read_text() + torn)
    CsvLogger(path, 4).log({"epoch": 1, "loss": 7.0}, 4)
    assert [row["loss"] for row in _rows(path)] == ["0.0", "1.0", "2.0", "3.0", "7.0"]


def test_tensorboard_shows_a_step_that_is_taken_again_once(tmp_path):
    """Also where a run was stopped before its first checkpoint, and is begun again."""
    for first, steps in ((0, range(3)), (0, range(6)), (4, range(4, 8))):
        logger = TensorBoardLogger(tmp_path, first)
        for step in steps:
            logger.log({"loss": float(10 * first + step)}, step)
        logger.close("finished")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 44), (5, 45), (6, 46), (7, 47)]
