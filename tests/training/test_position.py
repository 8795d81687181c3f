"""Where a run is, and where it goes on with other processes."""

from __future__ import annotations

import dataclasses

import pytest

from kat.training.position import Position

AT = Position(2, 10, 30, False, processes=2, batch_size=8, accumulate=2)


def test_the_same_division_changes_nothing():
    assert AT.divided(2, 8, 2, batches=20) is AT


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulate", "batches", "batch", "steps"),
    [
        (1, 16, 2, 20, 10, 2 * 10 + 5),  # one process with both shares: the same place
        (4, 8, 1, 20, 5, 2 * 20 + 5),  # 10 * 16 images are 5 * 32
        (1, 8, 1, 40, 20, 2 * 40 + 20),
        (1, 8, 3, 40, 18, 2 * 14 + 6),  # the step of 3 that image 160 is in begins with batch 18
        (2, 100, 1, 2, 0, 2 * 2),  # the first batch of 200 is not whole yet
    ],
)
def test_another_division_goes_on_where_the_images_were(
    processes, batch_size, accumulate, batches, batch, steps
):
    moved = AT.divided(processes, batch_size, accumulate, batches)
    assert (moved.epoch, moved.batch, moved.steps) == (2, batch, steps)
    seen, before = batch * processes * batch_size, AT.batch * AT.processes * AT.batch_size
    assert before - processes * batch_size * accumulate < seen <= before


def test_an_epoch_that_is_to_be_validated_is_still_over():
    over = dataclasses.replace(AT, validating=True, batch=20)
    moved = over.divided(1, 8, 3, batches=40)
    assert (moved.validating, moved.batch, moved.steps) == (True, 40, 3 * 14)
