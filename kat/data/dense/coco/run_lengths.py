"""Checks COCO's compressed run lengths, all of a file at once."""

from __future__ import annotations

import numpy as np

from kat.data.packed_strings import PackedStrings

_GROUPS = 7
"""The most groups of bits in a number; with more it would exceed any image."""


def damaged_runs(runs: PackedStrings, pixels: np.ndarray) -> np.ndarray:
    """Finds run lengths that are malformed or do not fill their image.

    A number is stored in groups of five bits, the lowest first, each in a character from 48 on: bit
    5 says that another group follows, and bit 4 of the last is the sign. From the fourth number on,
    it is the difference from the last but one (pycocotools, ``rleToString``).

    Args:
        runs: compressed run lengths of masks; empty ones are not damaged.
        pixels: (masks,), the number of pixels that each must have.

    Returns:
        (masks,) bool.
    """
    lengths = np.diff(runs.ends, prepend=0)
    damaged = np.zeros(len(lengths), bool)
    groups = runs.content.astype(np.int64) - 48
    if not len(groups):
        return damaged
    owners = np.repeat(np.arange(len(lengths)), lengths)
    string_ends = np.zeros(len(groups), bool)
    string_ends[runs.ends[lengths > 0] - 1] = True
    complete = (groups & 32) == 0
    last = complete | string_ends
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    places = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    wrong = (groups < 0) | (groups > 63) | (places >= _GROUPS) | (string_ends & ~complete)
    damaged[owners[wrong]] = True

    shifts = 5 * np.minimum(places, _GROUPS - 1)
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    numbers -= np.where(groups[last] & 16, 32 << shifts[last], 0)
    owners = owners[starts]
    rank = np.arange(len(owners)) - np.searchsorted(owners, owners)
    for parity in (0, 1):
        chain = np.flatnonzero((rank % 2 == parity) & (rank > 0))
        if len(chain):
            sums = np.cumsum(numbers[chain])
            first = np.searchsorted(owners[chain], owners[chain])
            numbers[chain] = sums - np.concatenate([[0], sums])[first]
    damaged[owners[numbers < 0]] = True
    totals = np.bincount(owners, weights=numbers, minlength=len(lengths))
    return damaged | ((lengths > 0) & (totals != pixels))
