"""Loss scalers that skip steps for ever, or hide that the loss is not finite."""

from __future__ import annotations

import pytest
import torch

from kat.training.callbacks import divergence
from kat.training.callbacks.divergence import MOST_SKIPPED
from kat.training.record.run import Callback
from tests.equality import assert_equal
from tests.training.callbacks.faults import (
    STEPS,
    Fault,
    GradientTimes,
    make_batches,
    stopped,
    train,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def most_skipped(monkeypatch):
    """A smaller limit: the steps take long in 16 bits on a CPU."""
    assert MOST_SKIPPED == 50
    monkeypatch.setattr(divergence, "MOST_SKIPPED", 10)
    return 10


class Scale(Callback):
    """Sets the loss scale at the start of these steps, and keeps what it was at the start of each.

    One that is skipped counts as a step.
    """

    def __init__(self, given=None):
        self.given, self.seen = given or {}, []

    def on_batch_start(self, run, index):
        if run.state.step in self.given:
            run.precision.scaler = torch.amp.GradScaler("cpu", self.given[run.state.step])
        self.seen.append(run.precision.loss_scale)


def test_a_gradient_that_the_loss_scaler_skips_for_ever(tmp_path, most_skipped):
    def action(model):
        model.blocks[1].mlp.fc1.register_forward_hook(
            lambda module, args, y: GradientTimes.apply(y, torch.nan)
        )

    batches = make_batches(most_skipped + STEPS, size=2)
    fault, scale = Fault(3, action), Scale()
    message, _ = stopped(tmp_path, batches, fault, scale, precision="16-mixed")
    assert f"in {most_skipped} steps" in message
    assert f"last at step {2 + most_skipped} (" in message
    assert "first in the gradient of blocks.1.mlp.fc1.bias." in message
    assert_equal(weights_of(tmp_path / "last_good.ckpt"), fault.before)
    good = torch.load(tmp_path / "last_good.ckpt", weights_only=True)
    assert good["scaler"]["scale"] == scale.seen[3]  # as before the first of them
    assert scale.seen[-1] == scale.seen[3] / 2 ** (most_skipped - 1)


def test_a_loss_scale_that_is_too_large_is_found(tmp_path, most_skipped):
    """Twice: in the first steps, and later on again, which do not add up to the limit."""
    scale = Scale({0: 2.0**22, 15: 2.0**22})
    train(tmp_path, make_batches(30, size=2), scale, precision="16-mixed", epochs=1)
    for start, end in ((0, 15), (15, 30)):
        assert scale.seen[start] == 2.0**22
        assert 2.0**10 < scale.seen[end - 1] <= 2.0**16  # six skipped steps or more
