"""Words and numbers of messages and reports."""

from __future__ import annotations

from kat.text import counted, duration, listing, printable, quoted, say_all, scaled


def test_lists_say_how_much_they_leave_out():
    assert [listing("abcd"[:n]) for n in (0, 1, 3, 4)] == ["", "a", "a, b, c", "a, b, c and 1 more"]


def test_durations_and_sizes():
    assert list(map(duration, (1.26, 59.96, 3599.6))) == ["1.3 s", "1 min 00 s", "1 h 00 min"]
    assert [scaled(512, "B"), scaled(17.06e12, "B"), scaled(0)] == ["512 B", "17.06 TB", "0"]


def test_nouns_agree_with_their_number():
    assert quoted(["a"], "class", "classes") == "class 'a'"
    assert quoted("abcde", "class", "classes") == "classes 'a', 'b', 'c' and 2 more"
    assert [counted(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]


def test_names_reach_neither_the_terminal_nor_another_line(capsys):
    name = "a\x1b[31m\nkat: forged\r\u202e\udcff"
    assert printable(name) == r"a\x1b[31m\nkat: forged\r\u202e\udcff"
    assert printable("Größe 日本\u3000😀 \\n") == "Größe 日本\u3000😀 \\n"
    say_all([name, "b"])
    assert capsys.readouterr().out.splitlines() == [printable(name), "b"]
