"""Damaged copies of files."""

from __future__ import annotations

from collections.abc import Iterator


def with_a_flipped_bit(content: bytes, copies: int, start: int = 0) -> Iterator[bytes]:
    """Copies of a file, each with one bit flipped, at places spread over the file."""
    for place in range(start, len(content), len(content) // copies):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)
