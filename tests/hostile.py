"""Hostile values and documents, drawn with a fixed seed, and a count of what became of them."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tests.isolated import Outcome

NUMBERS = (
    "0", "-0.0", "-1", "1", "1.5", "1e-300", "1e300", "nan", ".nan", "inf", "-.inf", "1_000",
    "0x10", "99999999999999", "9223372036854775808", "9" * 400, "12:30:45", "١٢",
)  # fmt: skip
WORDS = (
    "", " ", "null", "~", "true", "auto", "none", "x", "x" * 5000, "tpu", "../..", "/dev/zero",
    "/dev/null", "/proc/self/mem", "%s%n", "$HOME", "fee_$5_to_$10", "=1+1", "\x1b[31mred", "a\nb",
    "2024-01-01", "\udcff", "-", "*", "**", "(", "[a-", "blocks.*", "é\u202e",
)  # fmt: skip
NESTED = (
    "[]", "[1, x]", "[null]", "[nan, nan]", "[2, 1]", "[[[[]]]]", "{}", "{1: 2}", "{a: {b: c}}",
    "{pretrained: true}", "{depth: -1}", "{depth: 99999999999999}", "{embed_dim: 0}",
    "{num_groups: nan}", "[" * 2000, "&a [*a]", "!!python/object/apply:os.system ['touch ran']",
)  # fmt: skip
TEXTS = (*NUMBERS, *WORDS, *NESTED)
"""Values of a setting, as a user may type them."""

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e300, float("nan"), float("inf"), 2**40, 2**63, 10**400, "", "x",
    "x" * 5000, "a\x00b", "\ud800", "../../etc/passwd", "\x1b[31m", "a\nb", "=1+1", [], [None],
    [[[]]], [1e300, -1e300], {}, {"a": 1}, {"counts": "x", "size": [2**20, 2**20]},
)  # fmt: skip
"""What may stand in the place of any value of a document."""

DOCUMENTS = {
    "empty": b"",
    "zeros": bytes(1000),
    "a number": b"1",
    "a list": b"[]",
    "text": b"hello",
    "null": b"null",
    "no text": bytes(range(256)),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "cut": b'{"epochs": 1, "data": {',
    "a cycle": b"&a [*a]",
    "a cycle of mappings": b"data: &a {name: digits, root: *a}",
    "aliases that explode": b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9 if n else [b"x"] * 9))
        for n in range(12)
    ),
    "deep lists": b"[" * 100_000,
    "deep mappings": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "code": b"epochs: !!python/object/apply:os.system ['touch ran']",
    "an unknown tag": b"epochs: !x 1",
    "two documents": b"epochs: 1\n---\nepochs: 2\n",
    "a key that is a list": b"? [1, 2]\n: 3\n",
    "a key that is a number": b"1: 2\n",
    "a long number": b'{"epochs": ' + b"9" * 10_000 + b"}",
    "a long name": b'{"' + b"x" * 1_000_000 + b'": 1}',
    "a null character": b'{"data": "a\\u0000b"}',
    "a lone surrogate": b'{"data": {"name": "\\ud800"}}',
    "merge keys": b"data: {<<: 1}\n",
}
"""Files in the place of a YAML or JSON file."""


def changed(document: Any, rng: random.Random) -> Any:
    """A copy of a document of JSON types with one value, or a few, in the place of others."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 3))):
        place = copy
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.1:
                break
            place = inner
        if isinstance(place, dict) and rng.random() < 0.15:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        if not isinstance(copy, dict | list) or not copy:
            break
    return copy


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changed, or cut off."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 3, 30))):
        if damaged:
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(len(damaged) + 1)] if rng.random() < 0.3 else damaged)


def assert_held(cases: Iterable[tuple[str, Callable[[], Outcome]]]) -> None:
    """Runs cases by name, prints how many were tried, held and failed, and fails if any did."""
    failed, tried = [], 0
    for name, run in cases:
        outcome = run()
        tried += 1
        if not outcome.held:
            failed.append(f"{name[:200]!r}: exit code {outcome.code}, {outcome.err[-1500:]}")
    sys.stdout.write(f"tried {tried}, held {tried - len(failed)}, failed {len(failed)}\n")
    assert not failed, "\n".join([f"{len(failed)} of {tried} failed", *failed])
