"""Files that are written completely or not at all."""

from __future__ import annotations

import os

import pytest

from kat.files import link_or_copy


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_keeps_the_contents_when_the_first_is_replaced(tmp_path, monkeypatch, links):
    def unsupported(*_):
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    path, other = tmp_path / "last", tmp_path / "previous"
    path.write_text("1")
    for _ in range(2):  # again, as after a crash between this and the next writing
        link_or_copy(path, other)
    fresh = tmp_path / "fresh"
    fresh.write_text("2")
    os.replace(fresh, path)
    assert (path.read_text(), other.read_text()) == ("2", "1")
    assert {p.name for p in tmp_path.iterdir()} == {"last", "previous"}
