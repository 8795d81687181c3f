"""The way to the first step, over modules made for it."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def path(script):
    return script("path_to_first_step")


def _module(name, text, **given):
    values = {"__name__": name, **given}
    exec(text, values)
    return values


def test_entries_come_from_other_modules(path):
    low = _module("kat.low", "def f(): return g()\ndef g(): return 1\ndef late(): pass")
    hooks = _module("trainer", "def call(hook): return hook()")
    high = _module(
        "kat.high",
        "def run():\n  for _ in range(3): f()\n  call(f); call(own); stop(); late()\n"
        "def own(): pass",
        f=low["f"], late=low["late"], call=hooks["call"], stop=lambda: recorder.stop(),
    )  # fmt: skip
    recorder = path.Recorder()
    sys.setprofile(recorder.profile)
    try:
        high["run"]()
    finally:
        sys.setprofile(None)
    assert recorder.stepped
    assert list(recorder.calls.items()) == [("kat.high", 2), ("kat.low", 8)]
    assert dict(recorder.entries) == {"kat.high": 1, "kat.low": 4}


def test_what_an_import_calls_does_not_count(path):
    recorder = path.Recorder()
    sys.setprofile(recorder.profile)
    try:
        _module("kat.registry", "def register(): pass\nregister()\nclass Model: register()")
    finally:
        sys.setprofile(None)
    assert not recorder.calls
