"""The gates of files: every input is opened here, every output is tried and written here.

An input is a regular file; an output is written completely or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from kat.errors import InputError, MissingFile, OutputFailed, UnreadableFile
from kat.text import scaled

PICTURES = (".png", ".svg", ".pdf")
"""The suffixes of figures."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How inputs are opened: without O_NONBLOCK, a named pipe waits for its writer."""
_PROBE = bytes(4096)
"""What is written to find out whether there is space."""


def open_input(path: str | Path, *, limit: int | None = None, buffering: int = -1) -> BinaryIO:
    """Opens a file to read its bytes. All inputs are opened by this function.

    Pipes, devices and sockets are refused: reading them can wait forever or never end.

    Args:
        path: the path of the file.
        limit: the most bytes that the file may have, where the reader holds it in memory.
        buffering: as of :func:`open`.

    Raises:
        MissingFile: the file does not exist.
        UnreadableFile: it is not a regular file, may not be read, or is too large.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise MissingFile(path, "it does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UnreadableFile(path, reason_of(error)) from None
    status = os.fstat(descriptor)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG and (limit is None or status.st_size <= limit):
        return os.fdopen(descriptor, "rb", buffering)
    os.close(descriptor)
    if kind == stat.S_IFREG:
        assert limit is not None
        raise UnreadableFile(path, too_large(status.st_size, limit))
    raise UnreadableFile(path, f"it is {_KINDS.get(kind, 'something else')}, not a file")


def check_input(path: str | Path) -> None:
    """Checks that a file can be opened by :func:`open_input`, before a library opens it.

    Raises:
        MissingFile, UnreadableFile: see :func:`open_input`.
    """
    open_input(path).close()


def check_exists(path: Path) -> None:
    """Checks that a file or folder that the user names exists.

    Raises:
        MissingFile, UnreadableFile: it does not, or may not be looked at.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise MissingFile(path, "it does not exist") from None
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, reason_of(error)) from None


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The bytes of a file; see :func:`open_input`."""
    with open_input(path, limit=limit) as file:
        try:
            return file.read()
        except OSError as error:  # a damaged disk
            raise UnreadableFile(path, reason_of(error)) from None


def read_text(path: str | Path, limit: int = 1 << 26) -> str:
    """The contents of a text file in UTF-8, with a byte-order mark or not; see :func:`open_input`.

    Raises:
        UnreadableFile: among others, it is not in UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(path, f"it is not text in UTF-8: {error}") from None


def too_large(size: int, limit: int) -> str:
    """The reason to refuse a file of so many bytes."""
    return f"it has {scaled(size, 'B')}, and at most {scaled(limit, 'B')} are read"


def reason_of(error: Exception) -> str:
    """Why the system refused: its words, without the number and the path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` if the body creates a file there and succeeds.

    It is in a new folder beside ``path``, in which only this user can create files, and has the
    suffix of ``path``, for writers that choose a format by it. Whoever may rename that folder can
    put a link in its place: a body that opens the path by mode "x" follows none. If the body fails,
    ``path`` is left as it was and the temporary file is removed.
    """
    folder = _partial(path)
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that is renamed to it if the body succeeds.

    If the body fails, nothing is left.

    Raises:
        InputError: ``path`` exists, or its parent folder does not.
    """
    if path.exists():
        raise InputError(f"{path} exists already; remove it, or give another name")
    _check_parent(path)
    check_folder(path)
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, completely or not at all.

    Raises:
        OutputFailed: the system refused.
    """
    try:
        # names of files may hold bytes that are not UTF-8: Python keeps them as surrogates
        content = text.encode("utf-8", "backslashreplace")
        with replacing(Path(path)) as partial, partial.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise OutputFailed(path, error, text) from error


def open_to_append(path: Path) -> TextIO:
    """Opens a text file in UTF-8 to append lines, but not through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="")


def link_or_copy(path: Path, other: Path) -> None:
    """Gives a file a second name by a hard link, or copies it where links are unsupported.

    ``path`` may be replaced afterwards, but not changed in place; ``other`` keeps the contents.
    """
    with replacing(other) as partial:
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            with path.open("rb") as source, partial.open("xb") as target:
                shutil.copyfileobj(source, target)


def check_target(path: Path, endings: Sequence[str] = ()) -> None:
    """Checks that a file can be written, before the work whose result it will hold.

    Writes a little beside it, and removes it again.

    Args:
        path: the path of the file.
        endings: the suffixes that are allowed; empty for any.

    Raises:
        InputError: another suffix, a missing folder, ``path`` is not a regular file, or the system
            refuses.
    """
    if endings and path.suffix not in endings:
        raise InputError(f"{str(path)!r} must end in {' or '.join(endings)}")
    with _refusals(path):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file, and would be replaced")
        _check_parent(path)
        _probe(path.parent)


def check_folder(path: Path, *, probe: bool = True) -> None:
    """Checks that files can be written to a folder, which may have to be created.

    Args:
        path: the path of the folder.
        probe: write a little there, and remove it again; False: only read the permissions.

    Raises:
        InputError: ``path`` is a file or below one, its name is not UTF-8, or the system refuses.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {str(path)!r} is not UTF-8; give the folder another") from None
    with _refusals(path):
        above = next(each for each in (path, *path.parents) if each.exists())
        if not above.is_dir():
            where = "it" if above == path else above
            raise InputError(f"{path} cannot be a folder: {where} is a file")
        if probe:
            _probe(above)
        elif not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_new_folder(path: Path) -> None:
    """Checks that a folder can be created, or exists and is empty.

    Raises:
        InputError: ``path`` is a file or a folder with something in it, or is below a file, or the
            system refuses.
    """
    with _refusals(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists already; give a new or an empty folder")
    check_folder(path)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Errors of the system become :class:`InputError`."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written: {reason_of(error)}") from None


def _probe(folder: Path) -> None:
    path = _partial(folder / "probe")
    try:
        with path.open("xb") as file:
            file.write(_PROBE)
    finally:
        path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``$KAT_CACHE_DIR``, or ``kat`` in the user's cache folder."""
    if chosen := os.environ.get("KAT_CACHE_DIR"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kat"


def short_names(paths: Sequence[Path]) -> list[str]:
    """Distinct names for paths: as many of their last parts as tell them apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        labels = ["_".join(path.parts[-depth:]).strip("/") for path in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}_{path.name}" for index, path in enumerate(whole)]


def _partial(path: Path) -> Path:
    """A name that nobody can foresee, of a file or folder that is created and not opened."""
    return path.with_name(f".partial-{secrets.token_hex(8)}{path.suffix}")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} for {path.name} does not exist")
