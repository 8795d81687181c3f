"""Where a run is, and where it resumes with another division of the data."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from kat.training.state import UNKNOWN, Division, TrainState, rounding_changes, rounding_factors

AT = TrainState(Division(processes=2, batch_size=8, accumulate=2), epoch=2, batch=10, step=25)


def test_the_same_division_changes_nothing():
    assert AT.divided(AT.division, batches=20) is AT


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulate", "batches", "batch", "step"),
    [
        (1, 16, 2, 20, 10, 2 * 10 + 5),  # one process with both shares: the same place
        (4, 8, 1, 20, 5, 2 * 20 + 5),  # 10 * 16 images are 5 * 32
        (1, 8, 1, 40, 20, 2 * 40 + 20),
        (1, 8, 3, 40, 18, 2 * 14 + 6),  # the step of 3 that image 160 is in begins with batch 18
        (2, 100, 1, 2, 0, 2 * 2),  # the first batch of 200 is not whole yet
    ],
)
def test_another_division_resumes_where_the_images_were(
    processes, batch_size, accumulate, batches, batch, step
):
    moved = AT.divided(Division(processes, batch_size, accumulate), batches)
    assert (moved.epoch, moved.batch, moved.step) == (2, batch, step)
    assert moved.division == Division(processes, batch_size, accumulate)
    seen, before = batch * processes * batch_size, AT.batch * 2 * 8
    assert before - processes * batch_size * accumulate < seen <= before


def test_the_schedule_is_at_the_same_place_of_longer_and_shorter_epochs():
    ended = TrainState(Division(1, 8, 1), epoch=2, step=20)
    assert [ended.divided(ended.division, n).step for n in (10, 100, 1)] == [20, 200, 2]
    assert ended.divided(ended.division, UNKNOWN) is ended


def test_an_epoch_that_is_to_be_validated_is_still_over():
    over = dataclasses.replace(AT, validating=True, batch=20)
    moved = over.divided(Division(1, 8, 3), batches=40)
    assert (moved.validating, moved.batch, moved.step) == (True, 40, 3 * 14)


def _best(rows):
    """The epochs that became the best, one after the other."""
    state, taken = dataclasses.replace(AT, epoch=0, batch=0, history=[]), []
    for epoch, (top1, loss) in enumerate(rows, start=1):
        state.history.append({"epoch": epoch, "top1": top1, "val_loss": loss})
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


def test_a_task_without_a_validation_loss_keeps_the_first_of_equal_epochs():
    state = dataclasses.replace(AT, batch=0, history=[{"epoch": 1, "box_ap": 50.0}])
    state.mark_best("box_ap")
    state.history.append({"epoch": 2, "box_ap": 50.0})
    state.mark_best("box_ap")
    assert (state.best["epoch"], state.holds_best) == (1, False)


def test_an_epoch_that_is_cut_short_is_the_best_only_where_there_is_no_other():
    cut = dataclasses.replace(AT, history=[{"epoch": 3, "top1": 99.0}])
    cut.mark_best("top1")
    assert cut.best["epoch"] == 3
    later = dataclasses.replace(cut, best={"epoch": 1, "top1": 10.0})
    later.mark_best("top1")
    assert later.best["epoch"] == 1


def test_a_checkpoint_holds_it_as_plain_types(tmp_path):
    state = dataclasses.replace(
        AT, best={"epoch": 1, "top1": 50.0}, history=[{"epoch": 1}], skipped={"a.jpg": "torn"}
    )
    torch.save(state.to_dict(), tmp_path / "state")
    assert TrainState.from_dict(torch.load(tmp_path / "state", weights_only=True)) == state


def test_what_the_rounding_depends_on_is_compared_with_the_start():
    now = rounding_factors(torch.device("cpu"))
    assert {"threads", "instruction set", "CPU kernel", "PyTorch"} == set(now)
    assert rounding_changes(now, now) == rounding_changes({}, now) == ""
    before = {**now, "CPU kernel": "sse", "threads": "8"}
    kernel = f"CPU kernel {now['CPU kernel']} (sse at the start)"
    assert rounding_changes(before, now) == f"threads {now['threads']} (8 at the start), {kernel}"
