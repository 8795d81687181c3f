"""The data settings that an evaluation takes from the run of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.data import DataConfig, located
from kat.data.sources.registry import unused_settings
from kat.errors import InputError
from kat.settings import check_ranges
from kat.training.run_directory import SETTINGS, read_data_record, read_settings

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
    "exif",
    "bad_annotations",
    "boxes_only",
)


def data_of_run(checkpoint: Path, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the data settings of the run that a checkpoint belongs to.

    With them, the validation split is the run's: where that is a holdout of the training split, so
    say ``holdout`` and ``validate_on``.

    Args:
        checkpoint: a run directory, or a file in one.
        typed: the settings that the user has given, which are not read. If ``name`` is among
            them, and is not the run's own, that dataset is evaluated as a whole, without a holdout.

    Returns:
        Fields of :class:`kat.data.DataConfig`, without ``name`` if there is no run. Relative paths
        are as they were in the run's working directory.

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
    data = located(data, read_data_record(folder))
    other = "name" in typed and not _is_same(typed["name"], data.get("name"))
    wanted = {*_TAKEN_OVER, *([] if other else ["holdout", "validate_on"])} - {*typed}
    if other:
        wanted -= unused_settings(typed["name"])
    kept = {name: value for name, value in data.items() if name in wanted}
    for name, value in kept.items():
        if _is_fetched(value):
            raise InputError(
                f"the data of the run is not on this machine: data.{name} is {value!r} in"
                f" {folder / SETTINGS}. It is opened if you type it: --data NAME --data.{name} ..."
            )
    try:
        check_ranges(DataConfig(**kept), "data")
    except InputError as error:
        raise InputError(f"{folder / SETTINGS}: {error}") from None
    return {**whole, **kept}


def data_to_test(checkpoint: Path, typed: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """As :func:`data_of_run`, but of the data's own validation split.

    Returns:
        The settings, and a remark if the run was validated on a holdout of the training split, for
        which the data's own split is a test. What is typed is not changed.
    """
    settings = data_of_run(checkpoint, typed)
    if "validate_on" in typed or settings.pop("validate_on", "split") == "split":
        return settings, ""
    return settings | {"holdout": 0.0}, (  # a folder that has lost its own split is refused
        "note: these are the test images: the run chose its epoch on a holdout of the training"
        " split, and this is the data's own validation split"
    )


def _is_same(name: str, other: object) -> bool:
    """Whether two names are of one dataset, whose path may be written in two ways."""
    (kind, _, path), (of_run, _, of_other) = name.partition(":"), str(other).partition(":")
    if not path or not of_other:
        return name == other
    return kind == of_run and Path(path).resolve() == Path(of_other).resolve()


def _is_fetched(value: Any) -> bool:
    """Whether a setting of data names what is read over the network or from a command."""
    text = value if isinstance(value, str) else ""
    return text.startswith(("hfids/", "tfds/")) or "://" in text or "pipe:" in text
