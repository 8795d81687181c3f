"""Construct a training run from what was resolved: model, optimizer, loaders, state."""

from __future__ import annotations

import math
from typing import Any

import torch

from kat.data import DeviceTransform, ImageDataset, Loader, make_loader
from kat.data.loading.workers import worker_server
from kat.errors import InputError
from kat.models import Conversion, build_model, init_from_vit, load_weights
from kat.models.transfer import transfer_functions
from kat.nn.stability import StabilityMonitor
from kat.training.cluster.parallel import wrap
from kat.training.config import ModelConfig, TrainConfig
from kat.training.optim.ema import EMA
from kat.training.optim.freeze import RATIONALS, freeze
from kat.training.optim.optimizer import Schedule, make_optimizer
from kat.training.optim.precision import Precision
from kat.training.record.checkpoint import raw_weights
from kat.training.record.run import Run
from kat.training.record.state import Division, TrainState, rounding_factors
from kat.training.settings.resolve import ResolvedRun


def build(resolved: ResolvedRun) -> Run:
    """Construct a run in processes that are connected; nothing is written.

    Raises:
        InputError: settings that do not fit the model, or data of no batch or unknown length.
    """
    config, record = resolved.config, resolved.record
    device, world = resolved.device, resolved.world
    precision = Precision(config.precision, device)
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    used = {name: rate for name, rate in rates.items() if rate > 0}
    model: Any = build_model(record, **used)
    conversion = _prepare(model, resolved)
    model.to(precision.dtype)
    if resolved.checkpoint is not None:
        source = str(resolved.checkpoint.path)
        load_weights(model, raw_weights(resolved.checkpoint), source=source)
    workers = worker_server() if world.size > 1 and config.data.num_workers else None
    train_loader = make_loader(
        resolved.train_data, config.data, training=True, seed=config.seed, workers=workers
    )
    validated = _limited(resolved.val_data, config, world.size)
    val_loader = make_loader(validated, config.data, training=False, workers=workers)
    batches = _training_batches(train_loader, config)
    wrapped = wrap(model.to(device), world, config.strategy, device)
    monitor = None
    if config.monitor.enabled:
        monitor = StabilityMonitor(config.monitor.every_n_steps)
        monitor.attach(model)
    optimizer = make_optimizer(model, config.optim)
    ema = EMA(model, config.optim.ema_decay) if config.optim.ema_decay > 0 else None
    accumulate = config.optim.accumulate_grad_batches
    steps = math.ceil(batches / accumulate) * config.epochs
    state = TrainState(
        Division(world.size, train_loader.batch_size, accumulate),
        rounding_factors(device),
        skipped=resolved.train_data.ignored | resolved.val_data.ignored,
    )
    return Run(
        config=config,
        task=resolved.task,
        record=record,
        model=model,
        wrapped=wrapped,
        conversion=conversion,
        monitor=monitor,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.optim, config.epochs, steps),
        precision=precision,
        ema=ema,
        train_loader=train_loader,
        val_loader=val_loader,
        batches=batches,
        val_batches=len(val_loader),
        epochs=config.epochs,
        device=device,
        world=world,
        state=state,
        metrics=resolved.task.make_metrics().to(device),
        raw_metrics=resolved.task.make_metrics().to(device),
        prepare=DeviceTransform(record.mean, record.std, config.augment.random_erasing),
    )


def _prepare(model: Any, resolved: ResolvedRun) -> Conversion | None:
    """Initialize the model from a trained one if there is a source, and freeze its parts."""
    config: ModelConfig = resolved.config.model
    conversion = None
    if resolved.source is not None:
        conversion = init_from_vit(
            model,
            resolved.source,
            activation=config.init_activation,
            fit="act_init" not in config.args,
        )
    if config.functions_from is not None:
        if resolved.checkpoint is None:
            transfer_functions(config.functions_from, model)
        freeze(model, RATIONALS)
    freeze(model, config.freeze)
    if config.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return conversion


def _training_batches(loader: Loader, config: TrainConfig) -> int:
    """Return the batches of an epoch in this process, of which there must be one at least."""
    batches, limit = len(loader), config.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if batches < 1:
        raise InputError(
            f"the {loader.order.length} training images make no batch of"
            f" data.batch_size={loader.batch_size} in each process, or"
            f" limit_train_batches={config.limit_train_batches} leaves none: lower the batch size"
        )
    return batches


def _limited(data: ImageDataset, config: TrainConfig, processes: int) -> ImageDataset:
    """Return the validation split, or evenly spaced images of it in the batches of the limit."""
    limit = config.limit_val_batches
    if limit is None:
        return data
    if isinstance(limit, int):
        return data.evenly_spaced(limit * config.data.batch_size * processes)
    return data.evenly_spaced(math.ceil(limit * len(data)))
