"""Errors with one clear line, which the command line prints as it is, and checks of arguments."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable
from numbers import Integral
from typing import Any

_LISTED = 24


class InputError(ValueError):
    """Invalid input. The message names the value and says what to do. Exit code 2."""

    exit_code = 2


class Failed(RuntimeError):
    """A command that has failed for a reason that its message gives. Exit code 1."""

    exit_code = 1


class UnreadableFile(InputError):
    """An input file that cannot be read.

    Args:
        path: the path of the file.
        reason: why, as a clause, e.g. ``"it is a folder"``.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]} cannot be read: {self.reason}"


class MissingFile(UnreadableFile):
    """An input file that does not exist."""

    def __str__(self) -> str:
        return f"{self.args[0]} {self.reason.removeprefix('it ')}"


class BackendUnavailable(Failed):
    """A backend that was requested by name is unavailable. The message says why."""


class TrainingDiverged(Failed):
    """The loss is no longer finite. The message says since when and what to try. Exit code 1."""


class CheckpointFailed(Failed):
    """A checkpoint cannot be written. The message says why and what is left. Exit code 1."""


class Interrupted(Failed):
    """Training was asked to stop and has saved its state. The message says where. Exit code 75.

    That is EX_TEMPFAIL of sysexits.h: run the command again.
    """

    exit_code = 75


class ExportFailed(Failed):
    """The outputs of an exported file differ from the model's; it is not kept. Exit code 1."""


def check_is(name: str, value: Any, kind: type) -> None:
    """Check that an argument is an instance of a class.

    Raises:
        InputError: it is of another class.
    """
    if not isinstance(value, kind):
        given = type(value).__name__
        raise InputError(f"{name} must be an instance of {kind.__name__}, got {given}")


def check_count(name: str, value: Any) -> int:
    """Check and return an argument that is a number of things.

    Raises:
        InputError: it is no integer, or less than 1.
    """
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Check an argument that has a few values.

    Raises:
        InputError: it has another one.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {[*choices]}, got {value!r}")


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the one that is most likely meant.

    The likely name is the setting of this name in a section, if there is exactly one (``optim.lr``
    for ``lr``, or for ``learning_rate``, as others call it), else the closest of the names
    that begin most like it (``kat_tiny_patch16_224`` for ``kat_tiny``, and for ``kat_tinny``).

    Args:
        kind: what the name stands for, e.g. ``"model"``.
        name: the unknown name.
        known: all valid names; the message lists them if there are at most 24.
    """
    names = sorted(known)
    given = _spelling(name).replace("learning_rate", "lr").replace("imgsz", "image_size")
    spelled = {_spelling(known): known for known in reversed(names)}
    nearest = [spelling for spelling in spelled if spelling.endswith(f".{given}")]
    if len(nearest) != 1:
        beginnings: set[str] = set()  # of all names, each up to an underscore or its end
        for spelling in spelled:
            beginnings.update(itertools.accumulate(spelling.split("_"), "{}_{}".format))
        nearest = difflib.get_close_matches(given, beginnings, 1, 0.55)
    if nearest:
        longer = [spelling for spelling in spelled if f"{spelling}_".startswith(f"{nearest[0]}_")]
        nearest = difflib.get_close_matches(given, longer, 1, 0)
    hint = f"; did you mean {spelled[nearest[0]]!r}?" if nearest else ""
    listed = f" (there are: {', '.join(names)})" if len(names) <= _LISTED else ""
    return InputError(f"unknown {kind} {name!r}{hint}{listed}")


def _spelling(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
