"""What is raised for bad input: one clear line, which the command line shows as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 24


class InputError(ValueError):
    """Bad input: the message names the bad value and says what to do. Exit code 2."""


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name cannot be had here; the message says why."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite: the message says since when, and what to try. Exit code 1."""


class CheckpointFailed(RuntimeError):
    """A checkpoint cannot be written: the message says why, and what is left. Exit code 1."""


class Interrupted(RuntimeError):
    """Training was asked to stop and has saved its state: the message says where. Exit code 75."""


class ExportFailed(RuntimeError):
    """An exported file does not give the model's answers, and was not kept. Exit code 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones, with the nearest of them.

    Args:
        kind: what the name stands for, e.g. ``"model"``.
        name: the unknown name.
        known: every valid name; listed in full where they are few.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = f" (there are: {', '.join(names)})" if len(names) <= _LISTED else ""
    return InputError(f"unknown {kind} {name!r}{hint}{listed}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
