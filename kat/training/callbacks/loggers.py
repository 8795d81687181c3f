"""Loggers of a run: CSV and TensorBoard always, W&B and MLflow on request.

A resumed run continues its W&B and its MLflow run: their ids are in the run directory. Without a
network both work too: W&B by WANDB_MODE=offline, MLflow by a database in the run directory, unless
MLFLOW_TRACKING_URI names a server.
"""

from __future__ import annotations

import csv
import io
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from kat.documents import read_json, write_json
from kat.errors import InputError, first_line
from kat.extras import require
from kat.files import open_input, open_to_append
from kat.settings import flat
from kat.tables import columns_of, write_table
from kat.text import say
from kat.training.record.run import Callback, Logger, Run, Status
from kat.training.record.run_directory import (
    LOGGER_RUNS,
    METRICS,
    TENSORBOARD,
    remove,
    settings_to_keep,
)

_NEEDS = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


class CsvLogger(Logger):
    """Appends to metrics.csv: step, epoch, and a column for each name.

    Args:
        path: the file; a resumed run drops the rows of steps that it takes again.
        first_step: where the run starts or resumes.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        self.rows = [row for row in _read_rows(path) if int(row["step"]) < first_step]
        self.columns = columns_of(self.rows, ["step"])
        write_table(self.path, self.columns, self.rows)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Append a row, or add to the last one if that is of the same step."""
        row = {"step": str(step), **{name: repr(value) for name, value in values.items()}}
        known = row.keys() <= set(self.columns)
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1] |= row
            known = False
        else:
            self.rows.append(row)
        if known:
            with open_to_append(self.path) as file:
                csv.DictWriter(file, self.columns).writerow(row)
        else:
            self.columns = columns_of(self.rows, self.columns)
            write_table(self.path, self.columns, self.rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file, without a last one that its writer, killed, has left half."""
    if not path.is_file():
        return []
    with io.TextIOWrapper(open_input(path), encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    rows = []
    for row in csv.DictReader(lines):
        rows.append({name: value for name, value in row.items() if value})
    return rows


class TensorBoardLogger(Logger):
    """TensorBoard's event files.

    Args:
        folder: the folder of the files.
        first_step: where the run starts or resumes; later steps in the files become void.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # TensorBoard reads files by name, and a name tells the second alone: a run that is resumed
        # within the second of the last one could be read before it.
        while any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(0.05)
        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, status: Status) -> None:
        """Write the rest."""
        self.writer.close()


class WandbLogger(Logger):
    """A run of Weights & Biases, in the project of WANDB_PROJECT or ``kat``.

    Args:
        out: the run directory.
        run_id: the id of the W&B run that is resumed.
    """

    def __init__(self, out: Path, run_id: str | None) -> None:
        import wandb

        self.run_id = run_id or uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kat"),
            name=out.name,
            dir=out,
            id=self.run_id,
            resume="allow",
        )
        self.run.define_metric("*", step_metric="step")  # W&B's own step may not go back

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values against ``step``."""
        self.run.log({**values, "step": step})

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Update the run's config."""
        self.run.config.update(dict(settings), allow_val_change=True)

    def close(self, status: Status) -> None:
        """End the run, so that the next has its own."""
        self.run.finish(exit_code=0 if status == "finished" else 1)


class MlflowLogger(Logger):
    """A run of MLflow, in the experiment MLFLOW_EXPERIMENT_NAME or ``kat``.

    Args:
        out: the run directory.
        run_id: the id of the MLflow run that is resumed.
    """

    def __init__(self, out: Path, run_id: str | None) -> None:
        from mlflow.tracking import MlflowClient

        folder = out.absolute() / "mlflow"
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if not server:
            folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(server or f"sqlite:///{folder / 'mlflow.db'}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "kat")
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(
            name, None if server else folder.as_uri()
        )  # fmt: skip
        self.new = run_id is None
        self.run_id = run_id or self.client.create_run(experiment, run_name=out.name).info.run_id
        self.client.update_run(self.run_id, status="RUNNING")  # a resumed one has ended

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log a batch of metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics)

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings as parameters, once: MLflow takes no second value of one."""
        if self.new:
            for name, value in flat(settings, "/").items():
                self.client.log_param(self.run_id, name, value)

    def close(self, status: Status) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, status.upper())


SERVICES: dict[str, Callable[[Path, str | None], Logger]]
SERVICES = {"wandb": WandbLogger, "mlflow": MlflowLogger}


def check_services(names: Iterable[str]) -> None:
    """Check that W&B and MLflow are installed, and that W&B knows an account or is offline.

    Raises:
        MissingPackage: a package is not installed.
        InputError: W&B knows no account; the message says what to do.
    """
    for name in names:
        for package in _NEEDS[name]:
            require(package, f"loggers={name}")
        if name == "wandb":
            import wandb

            if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
                raise InputError(
                    "loggers=wandb needs an account: wandb login, or WANDB_MODE=offline"
                )


class Loggers(Callback):
    """Opens the loggers of a run in the first process, and closes them; the first callback."""

    def on_fit_start(self, run: Run) -> None:
        """Open CSV, TensorBoard and the services of the settings, and log the settings.

        Raises:
            InputError: a service refuses; nothing is left of a run that is not resumed.
        """
        if not run.is_first:
            return
        config, out, step = run.config, run.out, run.state.step
        path = out / LOGGER_RUNS
        runs = read_json(path) if config.resume and path.is_file() else {}
        run.loggers = [CsvLogger(out / METRICS, step), TensorBoardLogger(out / TENSORBOARD, step)]
        for name in config.loggers:
            try:
                run.loggers.append(SERVICES[name](out, runs.get(name)))
                run.loggers[-1].log_settings(settings_to_keep(config))
            except Exception as error:  # each service has exceptions of its own
                self._close(run, "failed")
                if not config.resume:
                    remove(out)
                raise InputError(f"loggers={name} cannot be used: {first_line(error)}") from error
            runs[name] = str(run.loggers[-1].run_id)
        if runs:
            write_json(path, runs)

    def on_fit_end(self, run: Run) -> None:
        """Close them."""
        self._close(run, "finished")

    def on_exception(self, run: Run) -> None:
        """Close them, unless they are closed."""
        self._close(run, "failed")

    def _close(self, run: Run, status: Status) -> None:
        """Close each logger, and print which service fails: the run itself may be in order."""
        loggers, run.loggers = run.loggers, []
        for logger in loggers:
            try:
                logger.close(status)
            except OSError:  # of a full disk, which the run itself reports
                pass
            except Exception as error:  # each service has exceptions of its own
                say(f"{type(logger).__name__} was not closed: {first_line(error)}")
