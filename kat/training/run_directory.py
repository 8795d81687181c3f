"""The folder of a run: what is in it, and when it may be written to."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kat.errors import InputError
from kat.files import write_text
from kat.models import read_training_checkpoint
from kat.tables import columns_of, open_table, write_table
from kat.training.config import TrainConfig

SETTINGS, SUMMARY, SKIPPED = "run.yaml", "summary.json", "skipped.csv"
HISTORY, METRICS, TENSORBOARD = "history.csv", "metrics.csv", "tensorboard"
BEST, LAST, PREVIOUS, LAST_GOOD = "best.ckpt", "last.ckpt", "previous.ckpt", "last_good.ckpt"
DIVERGENCE, CONVERSION = "divergence.json", "conversion.json"
STABILITY, STABILITY_REPORT = "stability.csv", "stability.html"
COEFFICIENTS = "coefficients.csv"
REPORT = "report.html"
LOGGER_RUNS = "loggers.json"
CHECKPOINTS_AT_ONCE = 4
"""The best, the last, the one before it, and the next while it is written."""
RESULTS = (SUMMARY, "model.safetensors", "config.json")
"""What a run writes when it is done, and what is out of date when it is resumed."""
CONTENTS = (
    *RESULTS,
    SETTINGS,
    HISTORY,
    SKIPPED,
    BEST,
    LAST,
    PREVIOUS,
    LAST_GOOD,
    DIVERGENCE,
    CONVERSION,
    STABILITY,
    STABILITY_REPORT,
    COEFFICIENTS,
    REPORT,
    LOGGER_RUNS,
    METRICS,
    TENSORBOARD,
    "wandb",
    "mlflow",
)
"""All that a run writes, and all that overwriting one removes."""
_RESUMED = (LAST, PREVIOUS, LAST_GOOD)
_ONCE = ("resume", "overwrite", "progress", "limit_epochs", "max_steps", "max_time")
"""Settings of one call, not of the run."""


def with_resumption_decided(config: TrainConfig) -> TrainConfig:
    """The settings with ``resume`` true or false: "auto" resumes a run that has a checkpoint.

    A run that was stopped before its first checkpoint is started again.
    """
    if config.resume != "auto":
        return config
    out = Path(config.out)
    resume = any((out / name).exists() for name in _RESUMED)
    begun = (out / SETTINGS).is_file() and not any((out / n).exists() for n in (BEST, *RESULTS))
    return dataclasses.replace(config, resume=resume, overwrite=begun and not resume)


def check_run_directory(config: TrainConfig) -> None:
    """Refuses a folder that is not a run's, and a run's that nobody gave up.

    Raises:
        InputError: says what is there, and what to do.
    """
    out = Path(config.out)
    if config.resume or not out.exists():
        return
    names = [path.name for path in out.iterdir()] if out.is_dir() else [out.name]
    names = [name for name in names if not name.startswith(".partial-")]
    if names and not (out / SETTINGS).is_file():
        raise InputError(f"{out} exists and is not the folder of a run; give another --out")
    if names and not config.overwrite:
        raise InputError(
            f"{out} already holds a run; give --resume auto, --overwrite, or another --out"
        )


def newest_checkpoint(out: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint that is whole, and a line on each newer one that is not.

    That is last.ckpt, or previous.ckpt, the one before it; or last_good.ckpt, of a run that is no
    longer finite.

    Raises:
        InputError: there is none.
    """
    damaged: list[str] = []
    for name in _RESUMED:
        path = out / name
        if not path.exists():
            continue
        try:
            if "state" not in read_training_checkpoint(path, require_checksum=True):
                raise InputError(
                    f"{path} was written by an older version, whose runs cannot be resumed; start a"
                    f" new one from its weights: --init-from {path}"
                )
        except InputError as error:
            damaged.append(str(error))
        else:
            return path, [f"{line}; resuming from {path}" for line in damaged]
    if damaged:
        raise InputError(f"no checkpoint in {out} can be resumed: {'; '.join(damaged)}")
    raise InputError(f"{out} holds no run to resume: there is no {LAST}")


def prepare_run_directory(config: TrainConfig, checkpoint: Path | None = None) -> None:
    """Removes what an overwritten run has left, and what is damaged or half of a resumed one.

    Writes the settings.

    Args:
        config: the settings.
        checkpoint: what a resumed run continues from.

    Raises:
        InputError: the folder cannot be made or written.
    """
    out = Path(config.out)
    try:
        if config.overwrite:
            _remove(out, CONTENTS)
        if checkpoint is not None and checkpoint.name != LAST:
            _remove(out, [LAST])  # else it would take the place of the one that is whole
        out.mkdir(parents=True, exist_ok=True)
        _remove(out, [path.name for path in out.glob(".partial-*")])
        write_text(out / SETTINGS, yaml.safe_dump(settings_to_keep(config)))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from None


def remove_results(out: Path) -> None:
    """Removes what a resumed run will write anew."""
    _remove(out, RESULTS)


def write_records(
    out: Path, history: Sequence[dict[str, float]], skipped: Mapping[str, str]
) -> None:
    """Writes history.csv, one row an epoch, and skipped.csv: each file left out, and why."""
    write_history(history, out / HISTORY)
    write_table(out / SKIPPED, ("file", "reason"), sorted(skipped.items()))


def _remove(out: Path, names: Sequence[str]) -> None:
    for name in names:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def settings_to_keep(config: TrainConfig) -> dict[str, Any]:
    """The settings that make the run what it is, as YAML's plain types."""
    settings = _plain(dataclasses.asdict(config))
    return {name: v for name, v in settings.items() if name not in _ONCE}


def read_settings(out: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = out / SETTINGS
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} does not hold the settings of a run")
    return settings


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe types."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def read_history(out: Path) -> list[dict[str, float]]:
    """The rows of history.csv, one an epoch.

    They hold ``epoch``, ``train_loss``, ``val_loss`` and the metrics of the task; with an EMA also
    ``raw_...`` of each, of the weights themselves.

    Args:
        out: a run directory; a run that has finished no epoch has no rows.
    """
    path = out / HISTORY
    if not path.is_file():
        return []
    with open_table(path, "the history of a run") as lines:
        rows = [{k: float(v) for k, v in line.items() if v} for line in lines]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def write_history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Writes the rows as CSV."""
    write_table(path, columns_of(rows, ["epoch"]), rows)
