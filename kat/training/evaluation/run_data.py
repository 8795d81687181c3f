"""Find stored models, and the data settings that an evaluation takes from the run of a model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.data import located, open_split
from kat.data.record import split_record
from kat.data.sources.registry import unused_settings
from kat.errors import InputError
from kat.models import is_model_folder
from kat.models.checkpoints.shipped import model_path
from kat.training.record.run_directory import SETTINGS, read_data_record, read_settings
from kat.training.settings.recipes import config_from

_ENDINGS = (".ckpt", ".safetensors", ".pth", ".pth.tar", ".pt", ".pt2", ".onnx")
_TAKEN_OVER = {
    "name", "root", "num_classes", "image_key", "label_key", "batch_size",
    "num_workers", "bad_images", "exif", "bad_annotations", "boxes_only",
}  # fmt: skip
_OF_THE_RUN = _TAKEN_OVER | {"val_split", "holdout", "validate_on"}
"""With what splits the run's own dataset."""


def find_checkpoints(given: Sequence[Path]) -> list[Path]:
    """Expand paths to the stored models that they refer to, without duplicates.

    A run directory or a model folder is kept. Any other folder is replaced by the weight files and
    model folders directly in it, in natural order, or kept if there are none.
    """
    found: dict[Path, None] = {}
    for path in given:
        inner: list[Path] = []
        if path.is_dir() and not is_model_folder(path) and not (path / SETTINGS).is_file():
            inner = [inside for inside in path.iterdir() if _is_model(inside)]
        found |= dict.fromkeys(sorted(inner, key=_natural) or [path])
    return list(found)


def _is_model(path: Path) -> bool:
    """Return True for a folder of a model, and for a file of weights that is not hidden."""
    hidden = path.name.startswith(".")
    return is_model_folder(path) or (path.name.endswith(_ENDINGS) and path.is_file() and not hidden)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts epoch=9 before epoch=10."""
    key = []
    for part in re.split(r"(\d+)", path.name):
        key.append((int(part), "") if part.isdecimal() else (-1, part))
    return key


def settings_of_run(checkpoint: Path) -> dict[str, Any]:
    """Read the seed and the data settings of the run that a checkpoint belongs to.

    Args:
        checkpoint: a run directory, or a file in one.

    Returns:
        ``data``, with paths for use in any working directory, ``seed``, and ``val``, the record of
        the validation split; empty without a run.

    Raises:
        InputError: the settings of the run are damaged.
    """
    path = model_path(checkpoint)
    folder = path if path.is_dir() else path.parent
    if not (folder / SETTINGS).is_file():
        return {}
    settings = read_settings(folder)
    record = read_data_record(folder)
    data = located(settings["data"], record)
    kept = {name: value for name, value in data.items() if name in _OF_THE_RUN}
    return {"data": kept, "seed": settings.get("seed"), "val": record.get("val")}


def data_of_run(
    checkpoint: Path, typed: Mapping[str, Any], exported: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the data settings of the run that a checkpoint belongs to.

    With them, the validation split is the run's: where that is a holdout of the training split, so
    say ``holdout`` and ``validate_on``.

    Args:
        checkpoint: a run directory, or a file in one.
        typed: the settings that the user has given, which are not read. If ``name`` is among
            them, and is not the run's own, that dataset is evaluated as a whole, without a holdout;
            unless it has the images of the run's own, which have moved.
        exported: the result of :func:`settings_of_run` in the record of an exported file.

    Returns:
        Fields of :class:`kat.data.DataConfig`, without ``name`` if there is no run. Relative paths
        are as they were in the run's working directory.

    Raises:
        InputError: the settings of the run are damaged, or name data that would be fetched over
            the network: the author of the run chose them, so the user has to type them.
    """
    run = exported or settings_of_run(checkpoint)
    data, wanted = run.get("data", {}), _OF_THE_RUN
    if "name" in typed and not _is_own(str(typed["name"]), run):
        wanted = _TAKEN_OVER - unused_settings(typed["name"])
    kept = {name: value for name, value in data.items() if name in wanted - {*typed}}
    for name, value in kept.items():
        if "://" in str(value):
            raise InputError(
                f"the data of the run is not on this machine: data.{name} is {value!r} in"
                f" {checkpoint}. It is opened if you type it: --data NAME --data.{name} ..."
            )
    return {"holdout": 0.0, **kept}


def _is_own(name: str, run: Mapping[str, Any]) -> bool:
    """Return True if data is a run's own, in its place or in another: its validation split says."""
    data, record = run.get("data", {}), run.get("val")
    if _place(name) == _place(data.get("name")):
        return True
    if record is None:
        return False
    try:
        here = config_from({"data": {**data, "name": name, "root": None}}).data
        return split_record(open_split(here, "val")) == record
    except InputError:
        return False


def data_to_test(
    checkpoint: Path, typed: Mapping[str, Any], exported: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str]:
    """Read the settings as :func:`data_of_run` does, but of the data's own validation split.

    Returns:
        The settings, and a remark if the run was validated on a holdout of the training split, for
        which the data's own split is a test. Typed settings are not changed.
    """
    settings = data_of_run(checkpoint, typed, exported)
    if "validate_on" in typed or settings.pop("validate_on", "split") == "split":
        return settings, ""
    return settings | {"holdout": 0.0}, (  # a folder that has lost its own split is refused
        "note: these are the test images: the run chose its epoch on a holdout of the training"
        " split, and this is the data's own validation split"
    )


def take_one_split(settings: Sequence[dict[str, Any]]) -> None:
    """Change the settings of an evaluation of several models, so that all see the same images.

    Of the images that are held out of a dataset, the smallest share counts for all models: larger
    shares include these images, so that no model was trained on them.

    Args:
        settings: for each model, data settings with ``name`` and ``holdout``.

    Raises:
        InputError: two runs of one dataset have different validation splits by name.
    """
    by_data = defaultdict(list)
    for one in settings:
        by_data[_place(one["name"])].append(one)
    for rows in by_data.values():
        shares = [row["holdout"] for row in rows if row["holdout"]]
        shared: dict[str, Any] = {"holdout": min(shares, default=0.0)}
        for name in ("root", "val_split"):
            values = {row[name] for row in rows if name in row}
            if len(values) > 1:
                listed = " and ".join(map(repr, sorted(values, key=str)))
                raise InputError(
                    f"the runs of {rows[0]['name']} have different validation splits: data.{name}"
                    f" is {listed}; choose one with --data.{name}"
                )
            if values:
                shared[name] = values.pop()
        for row in rows:
            row |= shared


def _place(name: object) -> tuple[str, Path | None]:
    """Return the kind of a dataset and its path, which may be written in several ways."""
    kind, _, path = str(name).partition(":")
    return kind, Path(path).resolve() if path else None
