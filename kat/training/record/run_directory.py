"""The run directory: its files, and what a resumed run finds there."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from kat.documents import read_json, read_yaml, write_json
from kat.errors import InputError
from kat.files import check_folder, read_text, write_text
from kat.locks import locked
from kat.settings import flat
from kat.tables import columns_of, open_table, write_table
from kat.training.config import TrainConfig

if TYPE_CHECKING:  # an occupied directory is refused without torch
    from kat.training.record.state import TrainState

SETTINGS, SUMMARY, SKIPPED = "run.yaml", "summary.json", "skipped.csv"
TEST = "test.json"
"""The results of the weights on test images, of 'kat ablate'."""
HISTORY, METRICS, TENSORBOARD = "history.csv", "metrics.csv", "tensorboard"
BEST, LAST, PREVIOUS, LAST_GOOD = "best.ckpt", "last.ckpt", "previous.ckpt", "last_good.ckpt"
DIVERGENCE, CONVERSION = "divergence.json", "conversion.json"
DATA = "data.json"
STABILITY = "stability.csv"
COEFFICIENTS = "coefficients.csv"
REPORT = "report.html"
LOGGER_RUNS = "loggers.json"
LOCK = ".kat-lock"
"""Exists while a run writes to the directory, or after one was killed; names its process."""
CHECKPOINTS_AT_ONCE = 4
"""Checkpoints on disk at once, at most: best, last, previous, and one that is being written."""
RESULTS = (SUMMARY, TEST, "model.safetensors", "config.json")
"""Files of a run that has finished; they are outdated once it is resumed."""
CONTENTS = (
    *RESULTS, SETTINGS, DATA, HISTORY, SKIPPED, BEST, LAST, PREVIOUS, LAST_GOOD, DIVERGENCE,
    CONVERSION, STABILITY, COEFFICIENTS, REPORT, LOGGER_RUNS, METRICS,
    TENSORBOARD, "wandb", "mlflow",
)  # fmt: skip
"""Everything that a run writes, and that ``overwrite`` removes."""
_RESUMED = (LAST, PREVIOUS, LAST_GOOD)
_FINISHED = {*RESULTS, HISTORY, BEST, PREVIOUS, LAST_GOOD, DIVERGENCE}
"""A run has one of these files only after a step; last.ckpt it has from its start."""
_ONCE = (
    "resume", "accept_changed_data", "overwrite", "progress", "limit_epochs", "max_steps",
    "max_time",
)  # fmt: skip
"""Settings of a single call, which run.yaml does not keep."""
_ID = re.compile(r"^# run (\w+)\n")
"""The first line of run.yaml: a comment, since the file is a recipe, whose keys are settings."""


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

    @property
    def state(self) -> TrainState:
        """The progress of the run in it."""
        from kat.training.record.state import TrainState

        return TrainState.from_dict(self.content["state"])


class Resumption(NamedTuple):
    """The state that a run finds in its directory.

    Args:
        overwrite: the run there is deleted.
        checkpoint: of a run that is resumed, else None.
        settings: run.yaml of a resumed run, else empty.
        data: data.json of a resumed run, else empty.
    """

    overwrite: bool
    checkpoint: Checkpoint | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012
    data: dict[str, Any] = {}  # noqa: RUF012


@contextmanager
def locked_run(out: Path) -> Iterator[None]:
    """Keep other runs, of this process and of others, from the run directory within the context.

    A folder that is still empty at the end is removed again.

    Raises:
        InputError: another run writes to the directory, or it cannot be written.
    """
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / LOCK):
            yield
    finally:
        with suppress(OSError):  # a folder has something in it
            for folder in created:
                folder.rmdir()


def find_resumption(
    out: Path, resume: bool | Literal["auto"], overwrite: bool, first: bool
) -> Resumption:
    """Read what a run resumes from, or check that a new one may take its directory.

    With ``resume="auto"`` a run with a checkpoint is resumed, and one that was stopped before its
    first checkpoint is started again.

    Args:
        out: the run directory.
        resume, overwrite: the settings.
        first: check the directory of a run that is not resumed.

    Raises:
        InputError: see :func:`take_directory`; or there is no intact checkpoint of this run.
    """
    there = {name for name in CONTENTS if (out / name).exists()}
    if resume == "auto":
        resume = not there.isdisjoint(_RESUMED)
        overwrite = not there & {LAST, *_FINISHED}
    if first:
        check_folder(out)  # which a dry run does not create
    if resume:
        checkpoint = newest_checkpoint(out)
        return Resumption(overwrite, checkpoint, read_settings(out), read_data_record(out))
    return Resumption(first and take_directory(out, overwrite))


def take_directory(out: Path, overwrite: bool) -> bool:
    """Check that a new run may take a directory, and return True if it replaces the run there.

    A run without a finished step is replaced: the new one makes again all that it has.

    Args:
        out: the run directory.
        overwrite: also replace a run with a finished step.

    Raises:
        InputError: the directory is not one of a run, or holds a run with a finished step that is
            not overwritten.
    """
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if all(name == LOCK or name.startswith(".partial-") for name in there):
        return False
    if SETTINGS not in there:
        raise InputError(f"{out} exists and is not a run directory; give another out")
    if not overwrite and _has_a_step(out, there):
        raise InputError(
            f"{out} already holds a run; give resume='auto' (--resume auto), overwrite=True"
            " (--overwrite), or another out"
        )
    return True


def _has_a_step(out: Path, there: Set[str]) -> bool:
    """Return True unless a run was stopped before there was more of it than its start."""
    if DATA not in there or there & _FINISHED:  # run.yaml alone may be a recipe of the user's
        return True
    return LAST in there and newest_checkpoint(out).content["state"]["step"] > 0


def newest_checkpoint(out: Path) -> Checkpoint:
    """Read the newest intact checkpoint, and compare best.ckpt with it.

    The candidates are last.ckpt, previous.ckpt (the one before it) and last_good.ckpt (of a
    diverged run), in this order.

    Raises:
        InputError: there is no intact checkpoint, or it or best.ckpt is of another run.
    """
    from kat.models import read_training_checkpoint

    damaged: list[str] = []
    for path in (out / name for name in _RESUMED if (out / name).exists()):
        try:
            content = read_training_checkpoint(path)
        except InputError as error:
            damaged.append(str(error))
            continue
        _check_own(path, content)
        lines = [f"{line}; resuming from {path}" for line in damaged]
        return Checkpoint(path, content, lines, _without_best(path, content["state"]))
    why = "; ".join(damaged) or f"there is no {LAST}"
    raise InputError(f"{out} holds no run to resume: {why}")


def _without_best(path: Path, state: Mapping[str, Any]) -> str:
    from kat.models import read_training_checkpoint

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
    """Refuse a checkpoint of another run than its directory's."""
    settings = path.with_name(SETTINGS)
    own, its = run_id(settings), checkpoint.get("run_id")
    if its != own:
        raise InputError(
            f"{path} is of another run: its id is {its}, and the id in {settings} is {own or None}."
            " Put the run's own file in its place; if that has only lost its first line, write it"
            f" again: '# run {its}'. A new run starts from the weights by --init-from {path}"
        )


def run_id(settings: Path) -> str:
    """Return the id of the run of a run.yaml; empty if it has none."""
    found = _ID.match(read_text(settings))
    return "" if found is None else found[1]


def read_data_record(out: Path) -> dict[str, Any]:
    """Return the record of the data that a run began with; empty if there is none."""
    path = out / DATA
    return dict(read_json(path)) if path.is_file() else {}


def prepare_run_directory(
    config: TrainConfig, data: Mapping[str, Any], checkpoint: Checkpoint | None = None
) -> str:
    """Create the run directory and write run.yaml and data.json.

    Removes the files of an overwritten run, and damaged or partial files of a resumed one.

    Args:
        config: the settings.
        data: the result of :func:`kat.data.data_record`.
        checkpoint: of a resumed run.

    Returns:
        The id of the run: a random one, which a resumed run keeps.
    """
    out = Path(config.out)
    if config.overwrite:
        remove(out)
    if checkpoint is not None and checkpoint.path.name != LAST:
        remove(out, [LAST])  # else it would replace the intact previous.ckpt
    out.mkdir(parents=True, exist_ok=True)
    remove(out, [path.name for path in out.glob(".partial-*")])
    own = run_id(out / SETTINGS) if checkpoint is not None else secrets.token_hex(8)
    write_text(out / SETTINGS, f"# run {own}\n{yaml.safe_dump(settings_to_keep(config))}")
    write_json(out / DATA, data)
    return own


def remove(out: Path, names: Iterable[str] = CONTENTS) -> None:
    """Remove files and folders of these names, by default a whole run, as far as they exist."""
    for path in (out / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_records(out: Path, state: TrainState) -> None:
    """Write history.csv (one row per epoch) and skipped.csv (skipped files with reasons)."""
    best = state.best.get("epoch")
    rows = [{**row, "best": int(row["epoch"] == best)} for row in state.history]
    write_table(out / HISTORY, columns_of(rows, ["epoch"]), rows)
    write_table(out / SKIPPED, ("file", "reason"), sorted(state.skipped.items()))


def settings_to_keep(config: TrainConfig) -> dict[str, Any]:
    """Return the settings for run.yaml, as plain YAML types.

    Examples:
        >>> from kat.training import TrainConfig, settings_to_keep
        >>> settings_to_keep(TrainConfig(epochs=5))["epochs"]
        5
    """
    settings = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists
    return {name: value for name, value in settings.items() if name not in _ONCE}


def unlike_default(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, by dotted names.

    Args:
        settings: nested, as :func:`settings_to_keep` returns them.
    """
    default = flat(settings_to_keep(TrainConfig()))
    return {n: value for n, value in flat(settings).items() if value != default.get(n, ...)}


def read_settings(out: str | Path) -> dict[str, Any]:
    """Return the settings that a run was started with.

    Raises:
        InputError: run.yaml is missing or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from kat.training import read_settings
        >>> read_settings(Path("runs/digits"))["model"]["name"]
        'kat_micro_patch2_8'
    """
    path = Path(out) / SETTINGS
    settings = read_yaml(path)
    if not isinstance(settings, dict) or not isinstance(settings.get("data", {}), dict):
        raise InputError(f"{path} does not hold the settings of a run")
    return settings


def read_summary(out: Path) -> dict[str, Any]:
    """Return the contents of summary.json."""
    return dict(read_json(out / SUMMARY))


def read_history(out: str | Path) -> list[dict[str, float]]:
    """Read history.csv.

    Each row has ``epoch``, ``train_loss``, ``val_loss`` and the metrics of the task; ``best`` is 1
    for the epoch that is kept. With an EMA, the metrics are the EMA's, and columns
    ``raw_...`` hold the metrics of the raw weights.

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
    path = Path(out) / HISTORY
    if not path.is_file():
        return []
    with open_table(path, "the history of a run") as lines:
        rows = []
        for line in lines:
            row = {name: float(value) for name, value in line.items() if value}
            rows.append({**row, "epoch": int(row["epoch"])})
        return rows
