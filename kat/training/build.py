"""A training run, built from what was resolved: model, optimizer, loaders, state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kat.data import DeviceTransform, Loader, make_loader
from kat.data.workers import worker_server
from kat.errors import InputError
from kat.models import Conversion, build_model, init_from_vit, load_weights
from kat.models.checkpoints.model_record import unseen_pixels
from kat.text import warn
from kat.training.callbacks.loggers import check_services
from kat.training.config import TrainConfig
from kat.training.distributed import connect, launch, wrap
from kat.training.optim.ema import EMA
from kat.training.optim.freeze import freeze
from kat.training.optim.optimizer import Schedule, check_layout, make_optimizer
from kat.training.optim.precision import Precision
from kat.training.resolve import ResolvedRun
from kat.training.run import Run, RunningMean
from kat.training.run_directory import Checkpoint
from kat.training.state import Division, TrainState, rounding_factors
from kat.training.tasks.registry import check_task


def build(resolved: ResolvedRun) -> Run:
    """Build model, optimizer and loaders, and connect the processes; nothing is written.

    A process that is to train with others, and was started alone, launches them instead.

    Raises:
        InputError: settings that do not fit the model, the data or the checkpoint.
    """
    config, record, device, world = (
        resolved.config, resolved.record, resolved.device, resolved.world
    )  # fmt: skip
    check_services(config.loggers)
    if not world.launched and world.size > 1:
        launch(world)
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    model = build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})
    unseen = unseen_pixels(model, record.input_size)
    if unseen and world.rank == 0:
        warn(f"warning: {unseen}")
    check_task(model, resolved.train_data, (config.model.name, config.data.name))
    conversion = _start_from_source(model, resolved)
    freeze(model, config.model.freeze)
    _arrange(model, config)
    if resolved.checkpoint is not None:
        content = resolved.checkpoint.content
        load_weights(model, content["state_dict"], source=str(resolved.checkpoint.path))
        check_layout(model, config.optim, content)
    workers = worker_server() if world.size > 1 and config.data.num_workers else None
    train_loader = make_loader(
        resolved.train_data, config.data, training=True, seed=config.seed, workers=workers
    )
    val_loader = make_loader(resolved.val_data, config.data, training=False, workers=workers)
    connect(world, device)
    batches = _batches(train_loader, config.limit_train_batches)
    val_batches = _batches(val_loader, config.limit_val_batches)
    if not 1 <= batches < math.inf:
        raise InputError(
            "the training split has fewer images than one batch of data.batch_size in each process,"
            " or limit_train_batches leaves none of its batches"
            if batches < 1
            else "the training data does not know its length: give a number of batches as"
            " limit_train_batches"
        )
    accumulate = config.optim.accumulate_grad_batches
    state = TrainState(
        Division(world.size, train_loader.batch_size, accumulate), rounding_factors(device)
    )
    if resolved.checkpoint is not None:
        _check_division(resolved.checkpoint, state.division, int(batches))
    precision = Precision(config.precision, device)
    model.to(device, precision.dtype)
    wrapped = wrap(model, world, config.strategy, device)
    steps = math.ceil(batches / accumulate) * config.epochs
    optimizer = make_optimizer(model, config.optim)
    metrics, raw_metrics = (resolved.task.make_metrics().to(device) for _ in range(2))
    return Run(
        config=config,
        task=resolved.task,
        record=record,
        model=model,
        wrapped=wrapped,
        conversion=conversion,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.optim, config.epochs, steps),
        precision=precision,
        ema=EMA(model, config.optim.ema_decay) if config.optim.ema_decay > 0 else None,
        train_loader=train_loader,
        val_loader=val_loader,
        batches=int(batches),
        val_batches=val_batches,
        val_limit=None if config.limit_val_batches is None else int(val_batches),
        epochs=config.epochs,
        device=device,
        world=world,
        state=state,
        metrics=metrics,
        raw_metrics=raw_metrics,
        prepare=DeviceTransform(record.mean, record.std, resolved.task.random_erasing),
        train_loss=RunningMean(device),
    )


def _start_from_source(model: nn.Module, resolved: ResolvedRun) -> Conversion | None:
    if resolved.source is None:
        return None
    settings = resolved.config.model
    fit = "act_init" not in settings.args
    return init_from_vit(model, resolved.source, activation=settings.init_activation, fit=fit)


def _arrange(model: Any, config: TrainConfig) -> None:
    if config.model.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.model.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()


def _check_division(checkpoint: Checkpoint, now: Division, batches: int) -> None:
    """Refuse to resume a run whose images were divided into steps in another way."""
    saved = TrainState.from_dict(checkpoint.content["state"])
    if not saved.is_divided_by(now, batches):
        raise InputError(
            f"{checkpoint.path} is of {saved.division}, and at step {saved.step} in epoch"
            f" {saved.epoch + 1}: {now}, {batches} in an epoch, cannot resume it. Give the settings"
            f" of the run, or start a new one from its weights by --init-from {checkpoint.path}"
        )


def _batches(loader: Loader, limit: int | float | None) -> float:
    """Return the batches that a limit, a number or as a float a share, leaves of a loader's.

    It is infinite for a stream that does not know its length.
    """
    try:
        total: float = len(loader)
    except TypeError:
        total = math.inf
    if limit is None or (isinstance(limit, float) and limit == 1):
        return total
    if isinstance(limit, int):
        return min(total, limit)
    return float(int(total * limit))
