"""The types of settings, with their ranges, their check by pydantic, and how they are merged.

A range is written as ``Annotated[X, ...] | None``, never as ``Annotated[X | None, ...]``.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from kat.errors import InputError

AUTO = "auto"

T = TypeVar("T")
Settings = TypeVar("Settings")

# The program replaces every "auto" before it uses the setting: see
# kat.training.settings.auto_settings. To mypy a setting has the type that it has then; the command
# line and pydantic accept the word.
if TYPE_CHECKING:
    OrAuto = Annotated[T, AUTO]
else:
    OrAuto = Union[T, Literal["auto"]]  # noqa: UP007  (a generic alias)

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Processes = Annotated[int, Field(ge=1, le=65536)]
"""A number of devices or machines."""
Workers = Annotated[int, Field(ge=0, le=256)]
Side = Annotated[int, Field(ge=1, le=2**15)]
"""A side of an image, in pixels."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
ProbabilityBelowOne = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
CropShare = Annotated[float, Field(ge=0.01, le=1)]
Interpolation = Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"]
"""How images are resized for evaluation."""
ShareBelowOne = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("order", "Input should be two numbers, the smaller first")
    return pair


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Batches = Count | Share
"""A number of batches, or a share of them: 1 is one batch, 1.0 is all."""

adapter = cache(TypeAdapter)
"""Pydantic's validator of a type."""


def check_ranges(settings: Settings, before: str = "") -> Settings:
    """Check the type and the range of every setting.

    Args:
        settings: a dataclass instance; nested dataclasses are checked too.
        before: the beginning of a message, such as ``"data."`` for a section of a run's settings.

    Returns:
        The settings with the types that files keep: Python's numbers in place of NumPy's, text in
        place of paths, and tuples where a list was given for one.

    Raises:
        InputError: names the first invalid setting, its value, and what it may be.
    """
    return settings_from(type(settings), asdict(cast(Any, settings)), before)


def settings_from(kind: type[Settings], content: Mapping[str, Any], before: str = "") -> Settings:
    """Return the settings of a dataclass from values by name, nested as the dataclass is.

    Types and ranges are checked as by :func:`check_ranges`; a name that the dataclass lacks has no
    effect.

    Raises:
        InputError: names the first invalid setting, its value, and what it may be.
    """
    try:  # by way of JSON, of which nothing is converted: the text "false" would become true
        text = json.dumps(content, default=_plain)
        return cast(Settings, adapter(cast(Any, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "value_error":  # of a rule between settings, which is clear
                raise InputError(f"{before}{one['ctx']['error']}") from None
        problems = [(_setting(content, one["loc"]), one["msg"]) for one in error.errors()]
        name, value = problems[0][0]
        wanted = describe([message for (other, _), message in problems if other == name])
        raise InputError(f"{before}{name} must be {wanted}, got {value!r:.200}") from None


def record_from(kind: type[Settings], content: Mapping[str, Any], source: object) -> Settings:
    """Return the record in a file, checked as settings are; a field that is missing is None.

    Raises:
        InputError: names the file and the first invalid field.
    """
    return settings_from(
        kind, {**dict.fromkeys(signature(kind).parameters), **content}, f"{source}: "
    )


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, and paths, as types that JSON has."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def _setting(content: Any, place: tuple[int | str, ...]) -> tuple[str, Any]:
    """Return the dotted name and the value of the setting in which pydantic found a problem."""
    names = []
    for part in place:
        if not isinstance(content, Mapping) or part not in content:
            break
        names.append(str(part))
        content = content[part]
    return ".".join(names), content


_WORDS = {
    "Input should be ": "",
    "Field required": "a longer list",
    "Tuple should have": "a list of",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "an object": "a mapping",
    "'16-mixed'": "'16-mixed' (fp16)",
    "'gpu'": "'gpu' (CUDA_VISIBLE_DEVICES=0 takes GPU 0)",
}
"""Pydantic's words, and the command line's words for them; values, and what others call them."""


def describe(messages: Iterable[str]) -> str:
    """Return the valid values, from pydantic's messages for each type that a value may have."""
    text = " or ".join(dict.fromkeys(messages))
    for long, short in _WORDS.items():
        text = text.replace(long, short)
    return text


def flat(settings: Mapping[str, Any], separator: str = ".", before: str = "") -> dict[str, Any]:
    """Return nested settings by names such as ``optim.lr``; an empty mapping stays a value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, separator, f"{before}{name}{separator}")
        else:
            found[f"{before}{name}"] = value
    return found


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; later ones override earlier ones."""
    result: dict[str, Any] = {}
    for given in settings:
        for key, value in given.items():
            known = result.get(key)
            if isinstance(value, Mapping) and isinstance(known, dict):
                result[key] = merged(known, value)
            else:
                result[key] = copy.deepcopy(value)
    return result
