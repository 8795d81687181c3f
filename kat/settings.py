"""The types of settings, with their ranges, their check by pydantic, and nested ones by name.

A range is written as ``Annotated[X, ...] | None``, never as ``Annotated[X | None, ...]``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from kat.errors import InputError

AUTO = "auto"

T = TypeVar("T")
Settings = TypeVar("Settings")

# The program replaces every "auto" before it uses the setting (kat.training.auto_settings). To
# mypy a setting has the type that it has then; the command line and pydantic accept the word.
if TYPE_CHECKING:
    OrAuto = Annotated[T, AUTO]
else:
    OrAuto = Union[T, Literal["auto"]]  # noqa: UP007  (a generic alias)

_MOST = 10**12
"""Far above any count that is meant, and a number of which floats know every unit."""
_LARGEST = 1e30
"""Far above any number that is meant, and far below float32's end, in which optimizers compute."""
Count = Annotated[int, Field(ge=1, le=_MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=_MOST)]
Processes = Annotated[int, Field(ge=1, le=65536)]
"""A number of devices or machines, far above what anybody has."""
Workers = Annotated[int, Field(ge=0, le=256)]
Side = Annotated[int, Field(ge=1, le=2**15)]
"""A side of an image, in pixels."""
Finite = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
ProbabilityBelowOne = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
CropShare = Annotated[float, Field(ge=0.01, le=1)]
ShareBelowOne = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("order", "Input should be two numbers, the smaller first")
    return pair


def _batches(limit: int | float) -> int | float:
    if not (0 < limit <= 1 if isinstance(limit, float) else limit >= 1):
        raise PydanticCustomError(
            "batches", "Input should be at least 1 batch, or a share above 0.0 and at most 1.0"
        )
    return limit


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Batches = Annotated[int | float, AfterValidator(_batches)]
"""A number of batches, or a share of them: 1 is one batch, 1.0 is all."""

_adapter = cache(TypeAdapter)


def check_ranges(settings: Settings, section: str = "") -> Settings:
    """Checks the type and the range of every setting.

    Args:
        settings: a dataclass instance; nested dataclasses are checked too.
        section: the section of a run's settings that it is, such as ``"data"``.

    Returns:
        The settings with the types that files keep: Python's numbers in place of NumPy's, and
        tuples where a list was given for one.

    Raises:
        InputError: names the first invalid setting, its value, and what it may be.
    """
    before = f"{section}." if section else ""
    given = _plain(settings, section)
    try:
        taken = _adapter(given.__class__).validate_python(asdict(given))
    except ValidationError as error:
        problems = [(problem["loc"], problem["msg"]) for problem in error.errors()]
        name, value = _setting(given, problems[0][0])
        wanted = [message for place, message in problems if _setting(given, place)[0] == name]
        raise InputError(f"{before}{name} must be {describe(wanted)}, got {value}") from None
    for name, value, kind in _converted(given, taken, before):
        raise InputError(f"{name} must be {kind}, got {value!r}")
    return cast(Settings, taken)


def _plain(value: Any, name: str) -> Any:
    """The settings, or the value of one, of types that YAML has, and tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        before = f"{name}." if name else ""
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{key: _plain(v, f"{before}{key}") for key, v in given.items()})
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"{name} must be a mapping with text as its keys, got {value}")
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, name) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"{name} must be text, a number, true or false, null, or a list or a mapping of these, got"
        f" {value!r}"
    )


def _converted(given: Any, taken: Any, before: str = "") -> Iterator[tuple[str, Any, str]]:
    """The settings that pydantic took for a value of another type: names, values, the types.

    The settings keep what was given, such as the text "false", which is true.
    """
    for field in fields(taken):
        name, wanted = f"{before}{field.name}", getattr(taken, field.name)
        value = getattr(given, field.name)
        if is_dataclass(wanted) and is_dataclass(value):
            yield from _converted(value, wanted, f"{name}.")
        elif not _is_of_type(value, wanted):
            kind = _KINDS_OF_TYPES.get(type(wanted))
            yield name, value, kind or f"of the type {type(wanted).__name__}"


def _is_of_type(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(map(_is_of_type, value, wanted))
    if isinstance(wanted, bool):
        return isinstance(value, bool)
    if isinstance(wanted, int | float):
        kind = int if isinstance(wanted, int) else int | float
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, type(wanted))


_KINDS_OF_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def _setting(settings: Any, place: tuple[int | str, ...]) -> tuple[str, Any]:
    """The dotted name and the value of the setting in which pydantic found a problem."""
    names = []
    for part in place:
        if not is_dataclass(settings):
            break
        names.append(str(part))
        settings = getattr(settings, str(part))
    return ".".join(names), settings


_KINDS: dict[str, str] = defaultdict(
    lambda: "of another type",
    integer="an integer",
    number="a number",
    string="text",
    boolean="true or false",
    list="a list",
    tuple="a list",
    dictionary="a mapping",
)
"""Pydantic's types, in the words of the command line."""


def describe(messages: list[str]) -> str:
    """What a value may be, from pydantic's messages, or others, for each of its types."""
    text = " or ".join(m.removeprefix("Input should be ") for m in dict.fromkeys(messages))
    text = re.sub(r"a valid (\w+)(, [^,]*?)?(?= or |$)", lambda m: _KINDS[m[1]], text)
    for long, short in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "above"),
        ("less than", "below"),
    ):
        text = text.replace(long, short)
    return text


def flat(settings: Mapping[str, Any], separator: str = ".", before: str = "") -> dict[str, Any]:
    """Nested settings by names such as ``optim.lr``; an empty mapping stays a value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= flat(value, separator, f"{before}{name}{separator}")
        else:
            found[f"{before}{name}"] = value
    return found
