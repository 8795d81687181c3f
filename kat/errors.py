"""Errors with one clear line, which the command line prints as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LISTED = 24


class InputError(ValueError):
    """Invalid input. The message names the value and says what to do. Exit code 2."""


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
        return f"{self.args[0]} does not exist"


class OutputFailed(OSError):
    """A text file that cannot be written, after the work whose result it should hold.

    Args:
        path: the path of the file.
        error: of the system.
        content: the text, which the command line prints instead.
    """

    def __init__(self, path: object, error: OSError, content: str) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))
        self.content = content


class BackendUnavailable(RuntimeError):
    """A backend that was requested by name is unavailable. The message says why."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite. The message says since when and what to try. Exit code 1."""


class CheckpointFailed(RuntimeError):
    """A checkpoint cannot be written. The message says why and what is left. Exit code 1."""


class LoaderFailed(RuntimeError):
    """A process that loads images has ended. Exit code 1.

    Args:
        reason: what was noticed of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"a process that loads images has ended ({reason}), often for lack of memory: lower"
            " data.num_workers; --resume auto continues a run"
        )


class Interrupted(RuntimeError):
    """Training was asked to stop and has saved its state. The message says where. Exit code 75."""


class ExportFailed(RuntimeError):
    """The outputs of an exported file differ from the model's; it is not kept. Exit code 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for an unknown name, with the one that is most likely meant.

    That is the setting of this name in a section, if there is one alone (``optim.lr`` for ``lr``,
    or for ``learning_rate``, as others call it), else the closest known name.

    Args:
        kind: what the name stands for, e.g. ``"model"``.
        name: the unknown name.
        known: all valid names; the message lists them if there are at most 24.
    """
    names = sorted(known)
    nearest = _most_likely(name, names)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    listed = f" (there are: {', '.join(names)})" if len(names) <= _LISTED else ""
    return InputError(f"unknown {kind} {name!r}{hint}{listed}")


def _most_likely(name: str, names: Sequence[str]) -> str | None:
    by_spelling = {_spelling(known): known for known in reversed(names)}
    given = _spelling(name).replace("learning_rate", "lr")
    in_sections = [spelling for spelling in by_spelling if spelling.endswith(f".{given}")]
    if len(in_sections) == 1:
        return by_spelling[in_sections[0]]
    nearest = difflib.get_close_matches(given, by_spelling, n=1, cutoff=0.55)
    return by_spelling[nearest[0]] if nearest else None


def _spelling(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")


def worker_has_ended(error: Exception) -> bool:
    """Whether an error says that a worker of a DataLoader was killed or has crashed.

    PyTorch also raises it by a signal handler, hence anywhere in the program.
    """
    lost = isinstance(error, ConnectionError | EOFError)  # to the worker; its own are wrapped
    return lost or (isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
