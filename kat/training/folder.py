"""The folder of a run: what is in it, and when it may be written to."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kat.errors import InputError
from kat.files import write_text
from kat.models import read_training_checkpoint
from kat.training.config import TrainConfig

SETTINGS, SUMMARY, HISTORY = "run.yaml", "summary.json", "history.csv"
BEST, LAST, LAST_GOOD = "best.ckpt", "last.ckpt", "last_good.ckpt"
DIVERGENCE, CONVERSION = "divergence.json", "conversion.json"
STABILITY, STABILITY_REPORT = "stability.csv", "stability.html"
LOGGER_RUNS = "loggers.json"
CHECKPOINTS_AT_ONCE = 3
"""The best, the last, and the one that is to take the place of either while it is written."""
RESULTS = (SUMMARY, "model.safetensors", "config.json")
"""What a run writes when it is done, and what is out of date when it goes on."""
CONTENTS = (
    *RESULTS,
    SETTINGS,
    HISTORY,
    BEST,
    LAST,
    LAST_GOOD,
    DIVERGENCE,
    CONVERSION,
    STABILITY,
    STABILITY_REPORT,
    LOGGER_RUNS,
    "csv",
    "tensorboard",
    "wandb",
    "mlflow",
)
"""All that a run writes, and all that overwriting one removes."""
_ONCE = ("resume", "overwrite", "progress", "limit_epochs", "max_steps", "max_time")
"""Settings of one call, not of the run."""


def check_folder(config: TrainConfig) -> None:
    """Refuses a folder that is not a run's, and a run's that nobody gave up.

    Raises:
        InputError: says what is there, and what to do.
    """
    out = Path(config.out)
    if config.resume:
        read_training_checkpoint(resumed_from(out))
        return
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / SETTINGS).is_file()):
        raise InputError(f"{out} exists and is not the folder of a run; give another --out")
    if any(out.iterdir()) and not config.overwrite:
        raise InputError(
            f"{out} already holds a run; give --resume true, --overwrite true, or another --out"
        )


def resumed_from(out: Path) -> Path:
    """The checkpoint that a run goes on from: last.ckpt, or in its first epoch last_good.ckpt.

    Raises:
        InputError: there is neither.
    """
    for name in (LAST, LAST_GOOD):
        if (out / name).exists():
            return out / name
    raise InputError(f"{out} holds no run to resume: there is no {LAST}")


def prepare_folder(config: TrainConfig) -> None:
    """Removes what an overwritten run has left, or the results of a resumed one; writes settings.

    Raises:
        InputError: the folder cannot be made or written.
    """
    out = Path(config.out)
    try:
        if config.overwrite:
            _remove(out, CONTENTS)
        if config.resume:
            _remove(out, RESULTS)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SETTINGS, yaml.safe_dump(settings_to_keep(config)))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from None


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
