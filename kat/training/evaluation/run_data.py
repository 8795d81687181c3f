"""The data settings that an evaluation takes from the run of the model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from kat.errors import InputError
from kat.training.run_directory import SETTINGS, read_settings

_TAKEN_OVER = (
    "name",
    "root",
    "val_split",
    "num_classes",
    "image_key",
    "label_key",
    "batch_size",
    "num_workers",
    "bad_images",
    "bad_annotations",
)


def data_of_run(checkpoint: Path, typed: Collection[str]) -> dict[str, Any]:
    """Reads the data settings of the run that a checkpoint belongs to.

    Args:
        checkpoint: a run directory, or a file in one.
        typed: the settings that the user has given, which are not read. If ``name`` is among
            them, that dataset is evaluated as a whole, without a holdout.

    Returns:
        Fields of :class:`kat.data.DataConfig`, without ``name`` if there is no run.

    Raises:
        InputError: the settings of the run are damaged, or name data that would be fetched over
            the network or read from a command (``pipe:``): whoever made the run chose them, so the
            user has to type them.
    """
    whole = {"holdout": 0.0}
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / SETTINGS).is_file():
        return whole
    data = read_settings(folder).get("data")
    if not isinstance(data, dict):
        raise InputError(f"{folder / SETTINGS} does not hold the settings of a run")
    wanted = [*_TAKEN_OVER, *([] if "name" in typed else ["holdout"])]
    kept = {name: data[name] for name in wanted if name in data and name not in typed}
    for name, value in kept.items():
        if _is_fetched(value):
            raise InputError(
                f"the data of the run is not on this machine: data.{name} is {value!r} in"
                f" {folder / SETTINGS}. It is opened if you type it: --data NAME --data.{name} ..."
            )
    return {**whole, **kept}


def _is_fetched(value: Any) -> bool:
    """Whether a setting of data names what is read over the network or from a command."""
    text = value if isinstance(value, str) else ""
    return text.startswith(("hfids/", "tfds/")) or "://" in text or "pipe:" in text
