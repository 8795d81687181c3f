"""Settings of the runs of a grid: nested or dotted, merged, and those that identify a run."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.errors import InputError
from kat.settings import flat
from kat.training.config import TrainConfig
from kat.training.run_directory import read_settings, settings_to_keep

Settings = dict[str, Any]
"""Nested settings, as in a recipe."""

REPORTING = ("out", "log_every_n_steps", "loggers")
"""Settings of the run directory and of logging, which do not change the result of a run."""

OF_ONE_CALL = ("out", "seed", "resume", "overwrite", "limit_epochs", "max_steps", "max_time")
"""Settings that a grid may not contain: the grid sets them, or they belong to a single call."""


def nested(settings: Mapping[str, Any]) -> Settings:
    """Converts settings with dotted names to nested ones: ``a.b: 1`` becomes ``a: {b: 1}``.

    A setting that has both forms, ``a.b: 1`` and ``a: {c: 2}``, has what both say.
    """
    result: Settings = {}
    for name, value in settings.items():
        one = value
        for section in reversed(str(name).split(".")):
            one = {section: one}
        result = merged(result, one)
    return result


def merged(*settings: Settings) -> Settings:
    """Merges nested settings; later ones override earlier ones."""
    result: Settings = {}
    for given in settings:
        for key, value in given.items():
            known = result.get(key)
            if isinstance(value, dict) and isinstance(known, dict):
                result[key] = merged(known, value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def with_model_of_size(content: Settings, base: Settings) -> Settings:
    """Replaces a star in model.name by the size of the base's KAT.

    Args:
        content: settings of a cell, merged into the base.
        base: settings that all cells share.

    Raises:
        InputError: the name has a star, but the base's model is not a KAT.
    """
    name, kat = (str(flat(settings).get("model.name", "")) for settings in (content, base))
    if "*" not in name:
        return content
    if not kat.startswith("kat_"):
        raise InputError(
            f"model.name={name} needs the size of a kat_* model, but the grid has {kat!r}"
        )
    return merged(content, {"model": {"name": name.replace("*", kat.removeprefix("kat_"))}})


def settings_of(config: TrainConfig) -> Settings:
    """The settings that determine the result of a run and differ from the defaults.

    They do not change when a new setting with a default is added. The run directory and the
    settings of logging are left out.
    """
    return _not_default(settings_to_keep(config))


def kept_settings(out: Path) -> Settings:
    """:func:`settings_of` the run in a run directory.

    Raises:
        InputError: the folder has no readable run.yaml.
    """
    return _not_default(read_settings(out))


def fingerprint(config: TrainConfig) -> str:
    """A hash of :func:`settings_of`: twelve hexadecimal digits."""
    text = json.dumps(settings_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _not_default(settings: Settings) -> Settings:
    own, default = flat(settings), flat(settings_to_keep(TrainConfig()))
    different = {n: v for n, v in own.items() if n not in default or v != default[n]}
    return nested({n: v for n, v in different.items() if n not in REPORTING})
