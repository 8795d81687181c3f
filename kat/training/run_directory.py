"""The run directory: its files, and when it may be written to."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kat.data import differences
from kat.documents import read_json, read_yaml
from kat.errors import InputError
from kat.files import check_folder, read_text, write_text
from kat.locks import locked
from kat.models import read_training_checkpoint
from kat.tables import columns_of, open_table, write_table
from kat.training.config import TrainConfig
from kat.training.state import TrainState

SETTINGS, SUMMARY, SKIPPED = "run.yaml", "summary.json", "skipped.csv"
TEST = "test.json"
"""Of 'kat ablate': the results of the weights on test images."""
HISTORY, METRICS, TENSORBOARD = "history.csv", "metrics.csv", "tensorboard"
BEST, LAST, PREVIOUS, LAST_GOOD = "best.ckpt", "last.ckpt", "previous.ckpt", "last_good.ckpt"
DIVERGENCE, CONVERSION = "divergence.json", "conversion.json"
DATA = "data.json"
STABILITY = "stability.csv"
COEFFICIENTS = "coefficients.csv"
REPORT = "report.html"
LOGGER_RUNS = "loggers.json"
LOCK = ".kat-lock"
"""Is there while a run writes to the directory, or if one was killed; names its process."""
CHECKPOINTS_AT_ONCE = 4
"""The most checkpoints on disk at once: best, last, previous, and one that is being written."""
RESULTS = (SUMMARY, TEST, "model.safetensors", "config.json")
"""Files of a run that has finished; they are outdated once it is resumed."""
CONTENTS = (
    *RESULTS,
    SETTINGS,
    DATA,
    HISTORY,
    SKIPPED,
    BEST,
    LAST,
    PREVIOUS,
    LAST_GOOD,
    DIVERGENCE,
    CONVERSION,
    STABILITY,
    COEFFICIENTS,
    REPORT,
    LOGGER_RUNS,
    METRICS,
    TENSORBOARD,
    "wandb",
    "mlflow",
)
"""Everything that a run writes, and that ``overwrite`` removes."""
_NUMBERS = ("parameters", "epochs", "seconds", "images_per_second", "memory_bytes")
"""The numbers in summary.json that every run has."""
_RESUMED = (LAST, PREVIOUS, LAST_GOOD)
_ONCE = (
    "resume",
    "accept_changed_data",
    "overwrite",
    "progress",
    "limit_epochs",
    "max_steps",
    "max_time",
)
"""Settings of a single call, which run.yaml does not keep."""


_ID = re.compile(r"^# run (\w+)\n")
"""The first line of run.yaml: a comment, since the file is a recipe, whose keys are settings."""


@contextmanager
def locked_run(out: Path) -> Iterator[None]:
    """Keeps other runs, of this process and of others, from the run directory within the context.

    A folder that is still empty at the end is removed again.

    Raises:
        InputError: another run writes to the directory, or it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise _not_a_run(out)
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK):
            yield
    finally:
        with suppress(OSError):  # a folder has something in it
            for folder in created:
                folder.rmdir()


def with_resumption_decided(config: TrainConfig) -> TrainConfig:
    """Replaces ``resume="auto"`` by true if the run has a checkpoint, else by false.

    A run that was stopped before its first checkpoint is started again.
    """
    if config.resume != "auto":
        return config
    out = Path(config.out)
    resume = any((out / name).exists() for name in _RESUMED)
    begun = (out / SETTINGS).is_file() and not any((out / n).exists() for n in (BEST, *RESULTS))
    return dataclasses.replace(config, resume=resume, overwrite=begun and not resume)


def check_run_directory(config: TrainConfig) -> None:
    """Checks that the run directory may be written to.

    Raises:
        InputError: it exists and is not a run directory, or it holds a run that is neither resumed
            nor overwritten.
    """
    out = Path(config.out)
    check_folder(out)
    if config.resume or not out.exists():
        return
    names = [path.name for path in out.iterdir()]
    names = [name for name in names if name != LOCK and not name.startswith(".partial-")]
    if names and not (out / SETTINGS).is_file():
        raise _not_a_run(out)
    if names and not config.overwrite:
        resuming = "--resume auto, " if any((out / name).exists() for name in _RESUMED) else ""
        raise InputError(f"{out} already holds a run; give {resuming}--overwrite, or another --out")


def _not_a_run(out: Path) -> InputError:
    return InputError(f"{out} exists and is not a run directory; give another --out")


class Checkpoint(NamedTuple):
    """The checkpoint that a run continues from.

    Args:
        path: the file.
        content: the loaded checkpoint.
        damaged: a message for each newer checkpoint that is damaged.
        without_best: why best.ckpt is not the best that this one records; empty if it is.
    """

    path: Path
    content: dict[str, Any]
    damaged: list[str]
    without_best: str


def newest_checkpoint(out: Path) -> Checkpoint:
    """Reads the newest intact checkpoint, and compares best.ckpt with it.

    The candidates are last.ckpt, previous.ckpt (the one before it) and last_good.ckpt (of a
    diverged run), in this order.

    Raises:
        InputError: there is no intact checkpoint, or it or best.ckpt is of another run.
    """
    damaged: list[str] = []
    for name in _RESUMED:
        path = out / name
        if not path.exists():
            continue
        try:
            content = read_training_checkpoint(path)
        except InputError as error:
            damaged.append(str(error))
            continue
        _check_own(path, content)
        lines = [f"{line}; resuming from {path}" for line in damaged]
        return Checkpoint(path, content, lines, _without_best(path, content["state"]))
    if damaged:
        raise InputError(f"no checkpoint in {out} can be resumed: {'; '.join(damaged)}")
    raise InputError(f"{out} holds no run to resume: there is no {LAST}")


def _without_best(path: Path, state: Mapping[str, Any]) -> str:
    best = path.with_name(BEST)
    try:
        content = read_training_checkpoint(best)
    except InputError as error:
        return str(error)
    _check_own(best, content)
    # compared as text, in which NaN is equal to itself
    if content["state"]["holds_best"] and str(content["state"]["best"]) == str(state["best"]):
        return ""
    return (
        f"{best} is not the best checkpoint that {path.name} records: it is not of epoch"
        f" {state['best'].get('epoch')}, or has other metrics"
    )


def _check_own(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Checks that a checkpoint is of the run in whose directory it is."""
    anew = f"a new run starts from its weights by --init-from {path}"
    if "run_id" not in checkpoint:
        raise InputError(
            f"{path} was written by an older version, whose runs cannot be resumed; {anew}"
        )
    settings = path.with_name(SETTINGS)
    own = _run_id(settings)
    if checkpoint["run_id"] != own and not own:
        raise InputError(
            f"{settings} has lost its first line, the id of the run: if {path} is of this run, put"
            f" back the line '# run {checkpoint['run_id']}'; {anew}"
        )
    if checkpoint["run_id"] != own:
        raise InputError(
            f"{path} is of another run: its id is {checkpoint['run_id']}, and {settings} has"
            f" {own}; put the run's own file in its place, or remove it; {anew}"
        )


def _run_id(settings: Path) -> str:
    """The id of the run of a run.yaml; empty if it has none."""
    found = _ID.match(read_text(settings))
    return "" if found is None else found[1]


def check_data(config: TrainConfig, data: Mapping[str, Any]) -> str:
    """Compares the data of a resumed run with what it began with.

    Args:
        config: the settings.
        data: the result of :func:`kat.data.data_record`.

    Returns:
        What has changed, if that is accepted; else nothing.

    Raises:
        InputError: it has changed, and ``accept_changed_data`` is not set.
    """
    before = read_data_record(Path(config.out)) if config.resume else {}
    changed = differences(before, data) if before else []
    if changed and not config.accept_changed_data:
        raise InputError(
            f"{config.data.name} is not the data that {config.out} began with:"
            f" {'; '.join(changed)}. Resume with the data as it was, or accept the change with"
            " --accept-changed-data true"
        )
    return f"the data has changed since the run began: {'; '.join(changed)}" if changed else ""


def read_data_record(out: Path) -> dict[str, Any]:
    """The record of the data that a run began with; empty if there is none.

    Raises:
        InputError: it is damaged.
    """
    path = out / DATA
    record: dict[str, Any] = read_json(path) if path.is_file() else {}
    wanted = {"paths": dict, "classes": list, "train": dict, "val": dict}
    fits = isinstance(record, dict) and all(
        isinstance(record.get(key), kind) for key, kind in wanted.items()
    )
    if record and not (fits and all(isinstance(path, str) for path in record["paths"].values())):
        raise InputError(f"{path} is damaged; without it the data is not compared")
    return record


def prepare_run_directory(
    config: TrainConfig, data: Mapping[str, Any], checkpoint: Checkpoint | None = None
) -> str:
    """Creates the run directory and writes run.yaml and data.json.

    Removes the files of an overwritten run, and damaged or partial files of a resumed one.

    Args:
        config: the settings.
        data: the result of :func:`kat.data.data_record`.
        checkpoint: what the run is resumed from, or None.

    Returns:
        The id of the run: a random one, which a resumed run keeps.

    Raises:
        InputError: the directory cannot be created or written.
    """
    out = Path(config.out)
    try:
        if config.overwrite:
            remove_run(out)
        if checkpoint is not None and checkpoint.path.name != LAST:
            _remove(out, [LAST])  # else it would replace the intact previous.ckpt
        out.mkdir(parents=True, exist_ok=True)
        _remove(out, [path.name for path in out.glob(".partial-*")])
        settings = out / SETTINGS
        own = _run_id(settings) if checkpoint is not None else secrets.token_hex(8)
        write_text(settings, f"# run {own}\n{yaml.safe_dump(settings_to_keep(config))}")
        write_text(out / DATA, json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from None
    return own


def remove_run(out: Path) -> None:
    """Removes everything that a run writes."""
    _remove(out, CONTENTS)


def remove_results(out: Path) -> None:
    """Removes the results that a resumed run will write again."""
    _remove(out, RESULTS)


def write_records(out: Path, state: TrainState) -> None:
    """Writes history.csv (one row per epoch) and skipped.csv (skipped files with reasons)."""
    best = state.best.get("epoch")
    rows = [{**row, "best": int(row["epoch"] == best)} for row in state.history]
    write_history(rows, out / HISTORY)
    write_table(out / SKIPPED, ("file", "reason"), sorted(state.skipped.items()))


def _remove(out: Path, names: Sequence[str]) -> None:
    for name in names:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def settings_to_keep(config: TrainConfig) -> dict[str, Any]:
    """The settings for run.yaml, as plain YAML types.

    Examples:
        >>> from kat.training import TrainConfig, settings_to_keep
        >>> settings_to_keep(TrainConfig(epochs=5))["epochs"]
        5
    """
    settings = _plain(dataclasses.asdict(config))
    return {name: v for name, v in settings.items() if name not in _ONCE}


def read_settings(out: str | Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        InputError: run.yaml is missing or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from kat.training import read_settings
        >>> read_settings(Path("runs/digits"))["model"]["name"]
        'kat_micro_patch2_8'
    """
    out = Path(out)
    path = out / SETTINGS
    settings = read_yaml(path)
    data = settings.get("data", {}) if isinstance(settings, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("name", ""), str):
        raise InputError(f"{path} does not hold the settings of a run")
    return settings


def read_summary(out: Path) -> dict[str, Any]:
    """The contents of summary.json.

    Raises:
        InputError: it is missing or damaged.
    """
    path = out / SUMMARY
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise InputError(f"{path} does not hold the results of a run")
    for name, value in summary.items():
        if name in _NUMBERS and not (isinstance(value, int | float) and math.isfinite(value)):
            raise InputError(f"{path} is damaged: {name} is {str(value)[:100]!r}, not a number")
    missing = [name for name in _NUMBERS if name not in summary]
    if missing:
        raise InputError(f"{path} is damaged: it has no {missing[0]}")
    return summary


def _plain(value: Any) -> Any:
    """Converts tuples to lists, which YAML's safe types require."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def read_history(out: str | Path) -> list[dict[str, float]]:
    """Reads history.csv.

    Each row has ``epoch``, ``train_loss``, ``val_loss`` and the metrics of the task; ``best`` is 1
    for the epoch that is kept. With an EMA, the metrics are those of the EMA, and columns
    ``raw_...`` hold those of the raw weights.

    Args:
        out: a run directory.

    Returns:
        One row per epoch; none if no epoch is complete.

    Examples:
        >>> from pathlib import Path
        >>> from kat.training import read_history
        >>> [int(row["epoch"]) for row in read_history(Path("runs/digits"))]
        [1, 2]
    """
    out = Path(out)
    path = out / HISTORY
    if not path.is_file():
        return []
    with open_table(path, "the history of a run") as lines:
        rows = [{k: float(v) for k, v in line.items() if v} for line in lines]
        return [{**row, "epoch": int(row["epoch"])} for row in rows]


def write_history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Writes the rows as CSV."""
    write_table(path, columns_of(rows, ["epoch"]), rows)
