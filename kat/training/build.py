"""A training run, built from what was resolved: model, optimizer, loaders, state."""

from __future__ import annotations

import math
from typing import Any

import torch

from kat.data import DeviceTransform, Loader, make_loader
from kat.data.loading.workers import worker_server
from kat.errors import InputError
from kat.models import build_model, init_from_vit, load_weights
from kat.models.checkpoints.model_record import unseen_pixels
from kat.nn.stability import StabilityMonitor
from kat.text import warn
from kat.training.callbacks.loggers import check_services
from kat.training.checkpoint import raw_weights
from kat.training.distributed import connect, wrap
from kat.training.optim.ema import EMA
from kat.training.optim.freeze import freeze
from kat.training.optim.optimizer import Schedule, check_layout, make_optimizer
from kat.training.optim.precision import Precision
from kat.training.resolve import ResolvedRun
from kat.training.run import Run
from kat.training.state import Division, TrainState, rounding_changes, rounding_factors
from kat.training.tasks.registry import check_task


def build(resolved: ResolvedRun) -> Run:
    """Build model, optimizer and loaders, and connect the processes; nothing is written.

    Raises:
        InputError: settings that do not fit the model, the data or the checkpoint.
    """
    config, record, checkpoint = resolved.config, resolved.record, resolved.checkpoint
    device, world = resolved.device, resolved.world
    check_services(config.loggers)
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    model: Any = build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})
    unseen = unseen_pixels(model, record.input_size)
    if unseen and world.rank == 0:
        warn(f"warning: {unseen}")
    check_task(model, resolved.train_data, (config.model.name, config.data.name))
    conversion = None
    if resolved.source is not None:
        conversion = init_from_vit(
            model,
            resolved.source,
            activation=config.model.init_activation,
            fit="act_init" not in config.model.args,
        )
    freeze(model, config.model.freeze)
    if config.model.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.model.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()
    precision = Precision(config.precision, device)
    model.to(precision.dtype)
    if checkpoint is not None:
        load_weights(model, raw_weights(checkpoint), source=str(checkpoint.path))
    workers = worker_server() if world.size > 1 and config.data.num_workers else None
    train_loader = make_loader(
        resolved.train_data, config.data, training=True, seed=config.seed, workers=workers
    )
    val_loader = make_loader(resolved.val_data, config.data, training=False, workers=workers)
    connect(world, device)
    wrapped = wrap(model.to(device), world, config.strategy, device)
    batches = _batches(train_loader, config.limit_train_batches)
    val_batches = _batches(val_loader, config.limit_val_batches)
    if not 1 <= batches < math.inf:
        raise InputError(
            f"the training split has fewer than one batch of"
            f" data.batch_size={config.data.batch_size} in each process, or limit_train_batches"
            " leaves none of its batches"
            if batches < 1
            else "the training data does not know its length: give a number of batches as"
            " limit_train_batches"
        )
    accumulate = config.optim.accumulate_grad_batches
    state = TrainState(
        Division(world.size, train_loader.batch_size, accumulate),
        rounding_factors(device),
        skipped=resolved.train_data.ignored | resolved.val_data.ignored,
    )
    if checkpoint is not None:
        saved = checkpoint.state
        if change := saved.division_change(state.division, int(batches)):
            raise InputError(
                f"{change}, or start a new run from these weights: --init-from {checkpoint.path}"
            )
        changed = rounding_changes(saved.arithmetic, state.arithmetic)
        if changed and world.rank == 0:
            warn(
                f"warning: resumed with {changed}: the results differ from an uninterrupted run's"
                " in the last bits"
            )
    monitor = None
    if config.monitor.enabled:
        monitor = StabilityMonitor(config.monitor.every_n_steps)
        monitor.attach(model)
    optimizer = make_optimizer(model, config.optim)
    if checkpoint is not None:
        check_layout(model, optimizer, config.optim.name, checkpoint.content["optimizer"])
    steps = math.ceil(batches / accumulate) * config.epochs
    schedule = Schedule(optimizer, config.optim, config.epochs, steps)
    metrics, raw_metrics = (resolved.task.make_metrics().to(device) for _ in range(2))
    return Run(
        config=config,
        task=resolved.task,
        record=record,
        model=model,
        wrapped=wrapped,
        conversion=conversion,
        monitor=monitor,
        optimizer=optimizer,
        schedule=schedule,
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
