"""Blocks of a few rows for all tests of this folder."""

from __future__ import annotations

import pytest

from kat.nn.blocks import sizes
from kat.ops.cpu import backend as cpu
from tests.nn.blocks.mlps import ROWS


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sizes, "block_rows", lambda row_bytes: ROWS)
    monkeypatch.setattr(sizes, "least_bytes", lambda: 0)


@pytest.fixture
def spaces(monkeypatch):
    """The numbers of rows of which F(x) alone is computed in blocks."""
    seen, into = [], cpu.forward

    def count(f, x, *gate, **options):
        seen.append(len(x))
        into(f, x, *gate, **options)

    monkeypatch.setattr(cpu, "forward", count)
    return seen
