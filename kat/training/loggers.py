"""Where the numbers of a run go: CSV and TensorBoard always, W&B and MLflow on request.

A run that is resumed goes on with its W&B and its MLflow run: their ids are in the run's folder.
Without a network both work too: W&B by WANDB_MODE=offline, MLflow by a database in the folder,
unless MLFLOW_TRACKING_URI names a server.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from kat.errors import InputError, first_line
from kat.files import write_text
from kat.training.config import TrainConfig
from kat.training.run_directory import LOGGER_RUNS, settings_to_keep

_NEEDS = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
_INSTALL = {"wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


class WandbRun(WandbLogger):
    """Lightning's, which ends its W&B run with the training run, so that the next has its own."""

    def finalize(self, status: str) -> None:
        """Ends the run, as failed unless it succeeded."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def check_services(config: TrainConfig) -> None:
    """Checks that what W&B and MLflow need is there, where they are asked for.

    Raises:
        InputError: says what is not installed, or that W&B knows no account, and what to do.
    """
    for name in config.loggers:
        missing = [module for module in _NEEDS[name] if not _is_installed(module)]
        if missing:
            raise InputError(
                f"loggers={name} needs {', '.join(missing)}: pip install {_INSTALL[name]}"
            )
    if "wandb" in config.loggers:
        _check_account()


def local_loggers(config: TrainConfig) -> list[Logger]:
    """CSV and TensorBoard, in the run's folder; nothing is written yet."""
    return [
        CSVLogger(config.out, name="csv"),
        TensorBoardLogger(config.out, name="tensorboard"),
    ]


def start_logging(trainer: Trainer, config: TrainConfig) -> None:
    """Adds the services' loggers to the trainer's, keeps the ids of their runs, logs the settings.

    For the first process alone.

    Raises:
        InputError: a service refuses.
    """
    out = Path(config.out)
    known = read_runs(out) if config.resume else {}
    runs = dict(known)
    settings = settings_to_keep(config)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
    for name in config.loggers:
        try:
            logger = _OPEN[name](out, known.get(name))
            if name != "mlflow" or name not in known:  # which takes no other value of a setting
                logger.log_hyperparams(settings)
        except Exception as error:  # each service has exceptions of its own
            raise InputError(f"loggers={name} cannot be used: {first_line(error)}") from error
        trainer.loggers.append(logger)
        runs[name] = str(logger.version)
    if runs:
        write_text(out / LOGGER_RUNS, json.dumps(runs, indent=2) + "\n")


def read_runs(out: Path) -> dict[str, str]:
    """The ids of a run's W&B and MLflow runs, by the service's name."""
    path = out / LOGGER_RUNS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _check_account() -> None:
    import wandb

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise InputError("loggers=wandb needs an account: wandb login, or WANDB_MODE=offline")


def _open_wandb(out: Path, run: str | None) -> Logger:
    logger = WandbRun(
        name=out.name,
        save_dir=out,
        project=os.environ.get("WANDB_PROJECT", "kat"),
        id=run or uuid.uuid4().hex[:8],
    )
    _ = logger.experiment  # which starts it
    return logger


def _open_mlflow(out: Path, run: str | None) -> Logger:
    folder = out.absolute() / "mlflow"
    server = os.environ.get("MLFLOW_TRACKING_URI")
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", "kat"),
        run_name=out.name,
        run_id=run,
        tracking_uri=server or f"sqlite:///{folder / 'mlflow.db'}",
        artifact_location=None if server else folder.as_uri(),
    )
    logger.experiment.update_run(logger.run_id, status="RUNNING")  # a resumed one had ended
    return logger


_OPEN: dict[str, Callable[[Path, str | None], Logger]] = {
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}


def _is_installed(module: str) -> bool:
    """Whether it can be imported; a folder of that name is not enough."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
