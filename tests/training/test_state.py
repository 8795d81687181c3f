"""The state of a run: its division of the images, its best epoch, its rounding."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from kat.training.record.state import Division, TrainState, rounding_changes, rounding_factors

AT = TrainState(Division(processes=2, batch_size=8, accumulate=2), epoch=2, batch=10, step=25)


@pytest.mark.parametrize(
    ("changes", "division", "batches", "change"),
    [
        ({}, AT.division, 20, ""),
        ({"validating": True, "batch": 20, "step": 30}, AT.division, 20, ""),
        ({}, AT.division, 22, "an epoch now has 22 batches"),
        ({}, Division(1, 8, 2), 20, "the number of processes was 2 and is now 1: resume with 2"),
        ({}, Division(2, 16, 2), 20, "the batch size was 8 and is now 16: resume with 8"),
        ({}, Division(2, 8, 1), 20, "accumulate_grad_batches was 2 and is now 1: resume with 2"),
    ],
)
def test_a_state_is_of_one_division_of_the_images(changes, division, batches, change):
    found = dataclasses.replace(AT, **changes).division_change(division, batches)
    assert (change in found) if change else (found == "")


def _best(rows):
    """The epochs that became the best, one after the other; a loss may be missing."""
    state, taken = dataclasses.replace(AT, epoch=0, batch=0, history=[]), []
    for epoch, (top1, loss) in enumerate(rows, start=1):
        known = {} if loss is None else {"val_loss": loss}
        state.history.append({"epoch": epoch, "top1": top1, **known})
        state.epoch = epoch
        state.mark_best("top1")
        taken += [epoch] if state.holds_best else []
        assert state.epochs_since_best == epoch - taken[-1]
    return taken


def test_of_epochs_with_equal_metrics_the_lower_loss_is_the_best():
    assert _best([(86, 0.5), (86, 0.6), (86, 0.4), (85, 0.1), (86, 0.4)]) == [1, 3]
    assert _best([(math.nan, 0.5), (math.nan, math.nan), (0, 9), (1, math.nan), (1, 8)]) == [
        1, 3, 4, 5
    ]  # fmt: skip
    assert _best([(50, None), (50, None)]) == [1]  # of a task without a validation loss


def test_an_epoch_that_is_cut_short_is_the_best_only_where_there_is_no_other():
    cut = dataclasses.replace(AT, history=[{"epoch": 3, "top1": 99.0}])
    cut.mark_best("top1")
    assert cut.best["epoch"] == 3
    later = dataclasses.replace(cut, best={"epoch": 1, "top1": 10.0})
    later.mark_best("top1")
    assert later.best["epoch"] == 1


def test_what_the_rounding_depends_on_is_compared_with_the_start():
    now = rounding_factors(torch.device("cpu"))
    assert {"threads", "instruction set", "CPU kernel", "PyTorch"} == set(now)
    assert rounding_changes(now, now) == rounding_changes({}, now) == ""
    before = {**now, "CPU kernel": "sse", "threads": "8"}
    kernel = f"CPU kernel {now['CPU kernel']} (sse at the start)"
    assert rounding_changes(before, now) == f"threads {now['threads']} (8 at the start), {kernel}"
