"""Damaged run lengths are those that COCO's own tools refuse."""

from __future__ import annotations

import random

import numpy as np
from faster_coco_eval.core import mask

from kat.data.dense.coco import run_lengths

HEIGHT, WIDTH = 50, 60


def _refused(runs):
    try:
        mask.decode([{"size": [HEIGHT, WIDTH], "counts": runs.encode()}])
    except (RuntimeError, ValueError):
        return True
    return False


def test_damaged_run_lengths_are_those_that_cannot_be_decoded():
    draw, rng = random.Random(0), np.random.default_rng(0)
    runs = []
    for _ in range(300):
        pixels = (rng.random((HEIGHT, WIDTH)) < draw.choice([0, 0.01, 0.5, 1])).astype(np.uint8)
        text = mask.encode(np.asfortranarray(pixels))["counts"].decode()
        at = draw.randrange(len(text))
        runs += [text, text[:at], text[:at] + chr(draw.randrange(48, 112)) + text[at + 1 :]]
    runs = [text for text in runs if text]
    found = [run_lengths(text, HEIGHT, WIDTH) != text for text in runs]
    assert found == [_refused(text) for text in runs]
    assert 0.2 < np.mean(found) < 0.8
