"""Settings of the runs of a grid: nested or dotted, merged, and those that identify a run."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat.errors import InputError
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
    name = _model_name(content)
    if not isinstance(name, str) or "*" not in name:
        return content
    kat = str(_model_name(base) or "")
    if not kat.startswith(_KAT):
        raise InputError(
            f"model.name={name} needs the size of a kat_* model, but the grid has {kat!r}"
        )
    filled = name.replace("*", kat.removeprefix(_KAT))
    return merged(content, {"model": {"name": filled}})


_KAT = "kat_"


def _model_name(content: Settings) -> Any:
    model = content.get("model")  # of a user's, who may have forgotten the .name
    return model.get("name") if isinstance(model, dict) else None


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
    own = {name: value for name, value in settings.items() if name not in REPORTING}
    return _differing(own, settings_to_keep(TrainConfig()))


_ABSENT = object()


def _differing(own: Settings, default: Settings) -> Settings:
    differing: Settings = {}
    for key, value in own.items():
        usual = default.get(key, _ABSENT)
        if isinstance(value, dict) and isinstance(usual, dict):
            value, usual = _differing(value, usual), {}
        if value != usual:
            differing[key] = value
    return differing
