"""The training loop: epochs, batches, steps of the optimizer, validation, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from kat.data import STEP, Batch, derived_seed, seed_all
from kat.errors import InputError
from kat.training.cluster.collectives import any_of, gather, in_step, share_buffers
from kat.training.cluster.parallel import is_fsdp, set_gradient_sync
from kat.training.optim.freeze import frozen_to_eval
from kat.training.record.run import Callback, Run, map_tensors


def fit(run: Run) -> None:
    """Train a run from where it is to its last epoch, or until ``run.should_stop``.

    A run that is resumed at its limit may have been killed before its last validation.
    """
    try:
        notify(run, Callback.on_fit_start)
        cut_short = run.should_stop and run.state.batch > 0
        while run.state.epoch < run.epochs and (cut_short or not run.should_stop):
            notify(run, Callback.on_epoch_start)
            if not run.state.validating and not cut_short:
                train_epoch(run)
            end_epoch(run, validate(run))
            cut_short = False
        notify(run, Callback.on_fit_end)
    except BaseException:
        for callback in run.callbacks:
            with suppress(Exception):  # such as of a full disk: the others must give back theirs
                callback.on_exception(run)
        raise


def notify(run: Run, hook: Callable[..., None], *args: Any) -> None:
    """Call a hook of all callbacks, such as ``Callback.on_epoch_start``, in their order."""
    for callback in run.callbacks:
        getattr(callback, hook.__name__)(run, *args)


def train_epoch(run: Run) -> None:
    """Train on the rest of an epoch; it is whole when ``run.state.validating`` is set."""
    state = run.state
    run.model.train()
    frozen_to_eval(run.model)
    run.train_loader.start_at(state.epoch, state.batch)
    batches = run.meter.timed(islice(run.train_loader, run.batches - state.batch))
    for index, batch in enumerate(batches, start=state.batch):
        seed_all(derived_seed(STEP, run.config.seed, state.epoch, index, run.world.rank))
        notify(run, Callback.on_batch_start, index)
        last = index + 1 == run.batches
        stepping = last or (index + 1) % state.division.accumulate == 0
        left = run.batches - index // state.division.accumulate * state.division.accumulate
        forward_backward(run, batch, min(state.division.accumulate, left), last=stepping)
        if stepping:
            take_step(run)
            state.step, state.batch, state.validating = state.step + 1, index + 1, last
        run.meter.count(len(batch.labels) * run.world.size)
        notify(run, Callback.on_batch_end, index, batch, stepping)
        if run.should_stop:
            return


def forward_backward(run: Run, batch: Batch, batches: int, *, last: bool) -> None:
    """Add the gradients of the batch's mean loss, divided by the batches of the step.

    The last step of an epoch may have fewer batches than others. With the last batch of a step,
    the processes exchange their gradients.
    """
    batch = prepared(run, batch, training=True)
    if len(batch.labels) == 0:
        raise InputError(f"no image of a batch can be read, first {batch.unreadable[0][0]}")
    images, labels = run.task.mixed(batch.images, batch.labels)
    arguments = run.task.arguments(images, labels)
    set_gradient_sync(run.wrapped, last)
    with run.precision.autocast():
        loss = run.task.loss(run.wrapped(*arguments), labels)
    run.loss = loss.detach()
    run.train_loss.update(run.loss, len(labels))
    run.precision.backward(loss / batches)


def take_step(run: Run) -> None:
    """Clip the gradients, take the step of the optimizer, and update EMA and learning rates."""
    run.precision.unscale(run.optimizer)
    notify(run, Callback.on_before_step)
    if run.config.optim.clip_grad > 0:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.clip_grad)
    run.precision.step(run.optimizer)
    run.optimizer.zero_grad()
    run.schedule.set(run.state.step + 1)
    share_buffers(run.model)
    if run.ema is not None:
        run.ema.update()


def prepared(run: Run, batch: Batch, *, training: bool = False) -> Batch:
    """Move a batch to the device, normalize its images, and in training erase rectangles."""
    for path, reason in batch.unreadable:
        run.state.skipped.setdefault(path, f"it cannot be read as an image: {reason}")
    if len(batch.labels) == 0:
        return batch
    if run.device.type != "cpu":
        move = partial(Tensor.to, device=run.device, non_blocking=True)
        images, labels = map_tensors(batch.images, move), map_tensors(batch.labels, move)
        batch = batch._replace(images=images, labels=labels)
    if isinstance(batch.images, Tensor):
        images = run.prepare(batch.images, batch.seeds if training else ())
        return batch._replace(images=_laid_out(run, images))
    each = [_laid_out(run, run.prepare(image[None]))[0] for image in batch.images]
    return batch._replace(images=each)


def _laid_out(run: Run, images: Tensor) -> Tensor:
    """Convert images to the precision and the memory format of the run."""
    if run.config.model.channels_last and images.ndim == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return images.to(run.precision.dtype)


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Return metrics of the kept weights by ``val_loss``, ``top1``, ...; and of raw ones.

    Every readable image counts once.
    """
    notify(run, Callback.on_validation_start)
    run.model.eval()
    images = 0
    for index, batch in enumerate(_validation_batches(run)):
        number = 0 if batch is None else len(batch.labels)
        _count(run, batch if number else None)
        if batch is not None:
            images += number
            notify(run, Callback.on_validation_batch_end, index, batch)
    if sum(gather(images)) == 0:  # of all ranks; one alone may have none
        raise InputError("the validation split has no image that can be read")
    values = _computed(run)
    notify(run, Callback.on_validation_end, values)
    run.metrics.reset()
    run.raw_metrics.reset()
    return values


def _validation_batches(run: Run) -> Iterator[Batch | None]:
    """Yield the batches of this rank; with sharded weights None while others have more."""
    batches = (prepared(run, batch) for batch in islice(run.val_loader, run.val_batches))
    if not is_fsdp(run.model):
        yield from batches
        return
    for batch in chain(batches, repeat(None)):
        if not any_of(batch is not None, run.device):
            return
        yield batch


def _count(run: Run, batch: Batch | None) -> None:
    """Count the predictions of the kept weights for a batch, and beside an EMA of raw ones."""

    def blank() -> None:
        size = 1, *run.record.input_size
        images = torch.zeros(size, dtype=run.precision.dtype, device=run.device)
        list(run.task.predict(run.model, images))

    kinds = [(run.metrics, run.kept_weights())]
    if run.ema is not None:
        kinds = [(run.raw_metrics, nullcontext()), *kinds]
    for metrics, weights in kinds:
        with weights, run.precision.autocast(), in_step(run.model, run.device, blank):
            if batch is not None:
                metrics.update(run.task.predict(run.model, batch.images), batch.labels)


def _computed(run: Run) -> dict[str, float]:
    """Return the metrics by column of history.csv."""
    kinds = {"": run.metrics} if run.ema is None else {"": run.metrics, "raw_": run.raw_metrics}
    values = {}
    for prefix, metrics in kinds.items():
        for name, value in metrics.compute().items():
            column = "val_loss" if name == "loss" else name
            values[prefix + column] = value.item()
    return values


def end_epoch(run: Run, values: dict[str, float]) -> None:
    """Add the epoch's row to history and logs; one that a limit cut short stays open."""
    state = run.state
    train_loss = run.train_loss.compute()
    run.train_loss.reset()
    names = ["val_loss", *(metric.name for metric in run.task.metrics)]
    columns = names + [f"raw_{name}" for name in names]
    kept = {name: values[name] for name in columns if name in values}
    state.history.append({"epoch": state.epoch + 1, "train_loss": train_loss, **kept})
    logged = {f"val/{name.replace('val_', '')}": value for name, value in values.items()}
    run.log({"train/loss": train_loss, **logged})
    if state.validating:
        state.epoch, state.batch, state.validating = state.epoch + 1, 0, False
    state.mark_best(run.task.metrics[0].name)
    notify(run, Callback.on_epoch_end)
