"""JSON and YAML within bounds."""

from __future__ import annotations

import pytest

from kat import documents
from kat.documents import parse_json, parse_yaml, read_json, read_yaml
from kat.errors import InputError

_BILLION_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
_MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_BILLION_LAUGHS, "is not valid YAML: it has more than 100000 values"),
        (_MERGED, "is not valid YAML: it has more than 100000 values"),
        ("a: &a [*a]", "is not valid YAML: it has more than"),
        ("[" * 100_000, "is not valid YAML: maximum recursion depth"),
        ("a: !!python/object:os.system x", "is not valid YAML"),
        ("a: 2024-13-45", "is not valid YAML"),
        ("a: 1\nb: {c: 1,\n  c: 2}", "is not valid YAML: 'c' is twice in the mapping of line 2"),
    ],
)
def test_yaml_that_grows_or_is_damaged_is_refused(text, problem):
    with pytest.raises(InputError, match=rf"^x\.yaml {problem}[^\n]*$"):
        parse_yaml(text, "x.yaml")


def test_numbers_in_base_60_are_text():
    text = "{time: 1:30:00, share: 1:30.5, tagged: !!int 1:20, number: 130, float: 1e-3}"
    values = {"time": "1:30:00", "share": "1:30.5", "tagged": "1:20", "number": 130, "float": 1e-3}
    assert parse_yaml(text, "x.yaml") == values


def test_yaml_within_the_bounds(tmp_path):
    path = tmp_path / "x.yaml"
    assert parse_yaml("{1: a, '1': b}", "x.yaml") == {1: "a", "1": "b"}
    many = "".join(f"k{number}: 0\n" for number in range(10_000))
    assert len(parse_yaml(many, "x.yaml")) == 10_000  # in seconds, not in their square
    path.write_text("a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}, {"b": 1}]}}
    assert parse_yaml("", "x") is None
    path.write_bytes(b"# comment\n" * (1 << 17))
    with pytest.raises(InputError, match=r"at most 1\.049 MB are read"):
        read_yaml(path)


def test_json_that_is_damaged_or_large_is_refused(tmp_path, monkeypatch):
    for text in (b"[" * 100_000, b"{", b"\xff"):
        with pytest.raises(InputError, match=r"^x\.json is not valid JSON: [^\n]*$"):
            parse_json(text, "x.json")
    path = tmp_path / "x.json"
    path.write_text("[" * 64 + "]" * 64)
    assert read_json(path)
    monkeypatch.setattr(documents, "JSON_LIMIT", 100)
    with pytest.raises(InputError, match="it has 128 B, and at most 100 B are read"):
        read_json(path)
