"""The gates of files: what is opened, what is tried before the work, what is written."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from kat.errors import InputError, MissingFile, UnreadableFile
from kat.files import (
    check_folder,
    check_new_folder,
    check_target,
    link_or_copy,
    open_input,
    open_to_append,
    read_bytes,
    read_text,
    replacing,
    write_text,
)

_LONG = "n" * 300


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe", "it is not a regular file"),
        ("socket", "No such device or address|Operation not supported"),
        ("/dev/zero", "it is not a regular file"),
        ("folder", "Is a directory"),
        ("file/below", "Not a directory"),
        (_LONG, "File name too long"),
        ("null\0character", "embedded null"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    _pipe(Path("pipe")), _socket(Path("socket"))
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(UnreadableFile, match=rf"cannot be read: {reason}"):
        open_input(name)


def test_an_input_may_be_missing_too_large_or_no_text(tmp_path):
    path = tmp_path / "text"
    with pytest.raises(MissingFile, match=r"text does not exist$"):
        read_text(path)
    path.write_bytes(b"12\xff")
    assert read_bytes(path, 3) == b"12\xff"
    with pytest.raises(UnreadableFile, match="it has 3 B, and at most 2 B are read"):
        read_bytes(path, 2)
    with pytest.raises(UnreadableFile, match="it is not text in UTF-8: '"):
        read_text(path)
    path.write_text("12", encoding="utf-16")
    with pytest.raises(UnreadableFile, match="it is UTF-16; save it as UTF-8"):
        read_text(path)


@pytest.mark.parametrize("check", [check_target, check_folder, check_new_folder])
@pytest.mark.parametrize("name", ["file/below/x", "/proc/new"])
def test_outputs_are_tried_before_the_work(tmp_path, monkeypatch, check, name):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InputError, match=r"^[^\n]*(cannot be|does not exist)[^\n]*$"):
        check(Path(name))
    assert os.listdir() == ["file"]


def test_a_full_disk_is_found_before_the_work(tmp_path):
    check_target(tmp_path / "table.csv")
    check_folder(tmp_path / "new" / "folder")
    assert not os.listdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for check in (check_target, check_folder, check_new_folder):
            with pytest.raises(InputError, match="cannot be written: File too large"):
                check(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not os.listdir(tmp_path)


def _no_links(*_):
    raise OSError("no hard links here")


def test_only_this_user_can_put_files_where_a_writer_opens_its_path(tmp_path):
    """The file replaces a file or the link that has its name, with a mode by the umask."""
    victim, path = tmp_path / "victim", tmp_path / "figure.png"
    victim.write_text("mine")
    path.symlink_to(victim)
    before = os.umask(0o027)
    try:
        with replacing(path) as partial:
            assert partial.suffix == ".png"
            assert partial.parent.parent == tmp_path
            assert stat.S_IMODE(partial.parent.stat().st_mode) == 0o700
            partial.write_text("new")
    finally:
        os.umask(before)
    assert (path.read_text(), victim.read_text()) == ("new", "mine")
    assert stat.S_IMODE(path.lstat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["figure.png", "victim"]


def test_lines_are_not_appended_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="log"):
        open_to_append(tmp_path / "log")
    (tmp_path / "log").unlink()
    for line in ("1\n", "2\n"):
        with open_to_append(tmp_path / "log") as file:
            file.write(line)
    assert (tmp_path / "log").read_text() == "1\n2\n"
    assert (tmp_path / "victim").read_text() == "mine\n"


def test_an_error_names_the_file_and_names_need_not_be_utf_8(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    write_text(tmp_path / "names", "\udcff")
    assert (tmp_path / "names").read_text() == r"\udcff"


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    for path in (_pipe(tmp_path / "pipe"), Path("/dev/zero"), Path("/dev/full")):
        with pytest.raises(InputError, match="is not a regular file, and would be replaced"):
            check_target(path)


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_keeps_the_contents_when_the_first_is_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    path, other = tmp_path / "last", tmp_path / "previous"
    path.write_text("1")
    for _ in range(2):  # again, as after a crash between this and the next writing
        link_or_copy(path, other)
    fresh = tmp_path / "fresh"
    fresh.write_text("2")
    os.replace(fresh, path)
    assert (path.read_text(), other.read_text()) == ("2", "1")
    assert {p.name for p in tmp_path.iterdir()} == {"last", "previous"}
