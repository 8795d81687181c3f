"""Open input files and write output files safely.

An input is a regular file; an output is written completely or not at all.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from kat.errors import InputError, MissingFile, UnreadableFile
from kat.text import scaled

PICTURES = (".png", ".svg", ".pdf")
"""The suffixes of figures."""


def _open(path: str, flags: int) -> int:
    """Open a file without waiting for the writer of a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_input(path: str | Path, *, limit: int | None = None, if_missing: str = "") -> BinaryIO:
    """Open a file to read its bytes. All inputs are opened by this function.

    Pipes, devices and sockets are refused: reading them can wait forever or never end.

    Args:
        path: the path of the file.
        limit: the most bytes that the file may have, where the reader holds it in memory.
        if_missing: a reason or a remedy for the message that there is no such file.

    Raises:
        MissingFile: the file does not exist.
        UnreadableFile: it is not a regular file, may not be read, or is too large.
    """
    try:
        file = open(path, "rb", opener=_open)  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError:
        raise MissingFile(path, f"it does not exist{if_missing and ': '}{if_missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UnreadableFile(path, reason_of(error)) from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        reason = "it is not a regular file"
    elif limit is not None and status.st_size > limit:
        size = scaled(status.st_size, "B")
        reason = f"it has {size}, and at most {scaled(limit, 'B')} are read"
    else:
        return file
    file.close()
    raise UnreadableFile(path, reason)


def read_bytes(path: str | Path, limit: int = 1 << 26) -> bytes:
    """Return the bytes of a file; see :func:`open_input`."""
    with open_input(path, limit=limit) as file:
        return file.read()


def read_text(path: str | Path, limit: int = 1 << 26) -> str:
    """Return a text file in UTF-8, with or without a byte-order mark; see :func:`open_input`.

    Raises:
        UnreadableFile: among others, it is not in UTF-8.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "it is UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else error
        raise UnreadableFile(path, f"it is not text in UTF-8: {found}; save it as UTF-8") from None


def leads_outside(path: str | Path, folder: str | Path) -> bool:
    """Return True if a path is neither a folder nor in it, once its links are followed."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def reason_of(error: BaseException) -> str:
    """Return the system's words for an error, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the body creates a file there and succeeds.

    It is in a new folder beside ``path``, in which only this user can create files, and has the
    suffix of ``path``, for writers that choose a format by it. Whoever may rename that folder can
    put a link in its place: a body that opens the path by mode "x" follows none. If the body fails,
    ``path`` is left as it was and the temporary file is removed.
    """
    folder = path.with_name(f".partial-{secrets.token_hex(8)}{path.suffix}")  # unforeseeable
    partial = folder / folder.name
    try:
        folder.mkdir(0o700 if os.name == "posix" else 0o777)  # files on Windows inherit it
        try:
            yield partial
            os.replace(partial, path)
        finally:
            with suppress(OSError):  # no shutil.rmtree: others may have put their folder there
                partial.unlink(missing_ok=True)  # os.replace keeps a second name of the same file
                folder.rmdir()
    except OSError as error:
        if error.filename is None or str(error.filename) in (str(folder), str(partial)):
            error.filename = str(path)  # errors of writing have no name
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    # names of files may hold bytes that are not UTF-8: Python keeps them as surrogates
    content = text.encode("utf-8", "backslashreplace")
    with replacing(Path(path)) as partial, partial.open("xb") as file:
        file.write(content)


def open_to_append(path: Path) -> TextIO:
    """Open a text file in UTF-8 to append lines, but not through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="")


def link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name by a hard link, or copy it where links are unsupported.

    ``path`` may be replaced afterwards, but not changed in place; ``other`` keeps the contents.
    """
    with replacing(other) as partial:
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            with path.open("rb") as source, partial.open("xb") as target:
                shutil.copyfileobj(source, target)


def check_target(path: Path, endings: Sequence[str] = ()) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Args:
        path: the path of the file.
        endings: the suffixes that are allowed; empty for any.

    Raises:
        InputError: another suffix, a missing folder, ``path`` is not a regular file, or the system
            refuses.
    """
    if endings and path.suffix not in endings:
        raise InputError(f"{str(path)!r} must end in {' or '.join(endings)}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file, and would be replaced")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} for {path.name} does not exist")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Check that files can be written to a folder, which may have to be created.

    Raises:
        InputError: ``path`` is a file or below one, or the system refuses.
    """
    above = next(each for each in (path, *path.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=above) as file:  # has no name, or a hidden one
            file.write(bytes(4096))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error)}") from None


def check_new_folder(path: Path) -> None:
    """Check that a folder can be created, or exists and is empty.

    Raises:
        InputError: it has something in it, or see :func:`check_folder`.
    """
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} exists already; give a new or an empty folder")
    check_folder(path)


def cache_folder() -> Path:
    """Return ``$KAT_CACHE_DIR``, or ``kat`` in the user's cache folder."""
    if chosen := os.environ.get("KAT_CACHE_DIR"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kat"


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return distinct names for paths: as many of their last parts as tell them apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        labels = ["_".join(path.parts[-depth:]).strip("/") for path in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}_{path.name}" for index, path in enumerate(whole)]
