"""The data settings that an evaluation takes from the run of the model."""

from __future__ import annotations

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
    "boxes_only",
)


def data_of_run(checkpoint: Path, named: bool) -> dict[str, Any]:
    """Reads the data settings of the run that a checkpoint belongs to.

    Args:
        checkpoint: a run directory, or a file in one.
        named: whether the user names a dataset; it is then evaluated as a whole, without a
            holdout.

    Returns:
        Fields of :class:`kat.data.DataConfig`, without ``name`` if there is no run.

    Raises:
        InputError: the settings of the run are damaged.
    """
    whole = {"holdout": 0.0}
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / SETTINGS).is_file():
        return whole
    data = read_settings(folder).get("data")
    if not isinstance(data, dict):
        raise InputError(f"{folder / SETTINGS} does not hold the settings of a run")
    wanted = [*_TAKEN_OVER, *([] if named else ["holdout"])]
    return {**whole, **{name: data[name] for name in wanted if name in data}}
