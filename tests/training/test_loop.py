"""The training loop: accumulation, validation, the order of its hooks, data that ends early."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kat.data import Batch
from kat.errors import InputError
from kat.training import OptimConfig
from kat.training.engine.loop import fit, validate
from kat.training.record.run import Callback
from tests.training.small import Batches, batches, make_run

pytestmark = pytest.mark.slow


def _cut(batch, *cuts):
    return [Batch(batch.images[cut], batch.labels[cut], []) for cut in cuts]


def _stepped(parts, accumulate):
    """The weights of the head after an epoch, which is one step."""
    optim = OptimConfig(name="sgd", lr=0.1, accumulate_grad_batches=accumulate)
    run = make_run(parts, epochs=1, optim=optim)
    fit(run)
    assert run.state.step == 1
    return run.model.head.weight.detach()


def test_accumulated_halves_step_as_the_whole_batch_does():
    (whole,) = batches(1)
    halves = _stepped(_cut(whole, slice(4), slice(4, 8)), 2)
    torch.testing.assert_close(halves, _stepped([whole], 1))


def test_a_last_step_of_fewer_batches_is_of_the_same_size():
    for accumulate in (4, 64):
        torch.testing.assert_close(_stepped(batches(2), accumulate), _stepped(batches(2), 2))


def test_gradients_are_clipped_to_a_norm():
    class Norms(Callback):
        def on_before_step(self, run):
            self.before = {n: p.detach().clone() for n, p in run.model.named_parameters()}

    norms = Norms()
    optim = OptimConfig(name="sgd", lr=1.0, clip_grad=1e-3, weight_decay=0.0)
    run = make_run(batches(1), None, norms, epochs=1, optim=optim)
    fit(run)
    steps = [p.detach() - norms.before[n] for n, p in run.model.named_parameters()]
    # nesterov momentum 0.9 takes 1.9 times the first gradient
    assert torch.cat([step.flatten() for step in steps]).norm().item() < 2e-3


def test_every_image_counts_once_in_a_validation():
    (whole,) = batches(1)
    run = make_run(batches(1), _cut(whole, slice(7), slice(7, 8)))
    values = validate(run)
    logits = run.model.eval()(whole.images).detach()
    loss = functional.cross_entropy(logits, whole.labels)
    top1 = 100 * (logits.argmax(1) == whole.labels).float().mean()
    assert values["val_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert values["top1"] == pytest.approx(top1.item())


def test_the_ema_is_validated_and_the_raw_weights_beside_it():
    run = make_run(batches(1), optim=OptimConfig(ema_decay=0.9))
    raw = validate(make_run(batches(1)))
    run.ema.values["head.bias"][3] = 50.0  # which then says 3 of everything
    values = validate(run)
    assert {name: values[f"raw_{name}"] for name in raw} == pytest.approx(raw)
    share = 100 * (batches(1)[0].labels == 3).float().mean().item()
    assert values["top1"] == pytest.approx(share)


def test_a_hook_that_fails_at_the_end_of_a_failed_run_hides_nothing():
    """Signals are given back, and the error is the one that stopped the run."""
    ended = []

    class Broken(Callback):
        def on_epoch_start(self, run):
            raise ValueError("the first")

        def on_exception(self, run):
            raise OSError("read-only")

    class Later(Callback):
        def on_exception(self, run):
            ended.append(True)

    with pytest.raises(ValueError, match="the first"):
        fit(make_run(batches(1), None, Broken(), Later()))
    assert ended == [True]


@pytest.mark.parametrize(("batch", "rows"), [(2, 1), (0, 0)])
def test_a_run_that_is_resumed_at_its_limit_validates_what_it_had_not(batch, rows):
    class Limit(Callback):
        def on_fit_start(self, run):
            run.should_stop = True

    run = make_run(batches(3), None, Limit(), epochs=2)
    run.state.batch = run.state.step = batch
    fit(run)
    assert (run.state.step, run.state.epoch, len(run.state.history)) == (batch, 0, rows)


def test_the_history_has_the_mean_loss_of_the_images_of_an_epoch():
    (whole,) = batches(1)
    parts = _cut(whole, slice(7), slice(7, 8))
    losses = []

    class Losses(Callback):
        def on_batch_end(self, run, index, batch, stepped):
            losses.append(run.loss.item() * len(batch.labels))

    run = make_run(parts, None, Losses(), epochs=1)
    fit(run)
    (row,) = run.state.history
    assert row["epoch"] == 1
    assert row["train_loss"] == pytest.approx(sum(losses) / 8)


def test_a_batch_or_a_split_without_an_image_is_refused():
    empty = Batch(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long), [("a.jpg", "torn")])
    with pytest.raises(InputError, match=r"first a\.jpg"):
        fit(make_run([*batches(1), empty], epochs=1))
    with pytest.raises(InputError, match="validation split has"):
        validate(make_run(batches(1), Batches([empty])))
