"""From the settings of a run to all that it will work with; nothing is written yet."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kat.data import (
    DataConfig,
    ImageDataset,
    ImageStream,
    check_classes,
    data_record,
    located,
    open_split,
    preprocessing,
    seed_all,
)
from kat.errors import InputError
from kat.models import ModelRecord, ViTSource, read_vit
from kat.settings import flat
from kat.text import say
from kat.training.auto_settings import describe, from_images, from_run, from_source
from kat.training.callbacks.loggers import check_services
from kat.training.config import TrainConfig, check
from kat.training.distributed import World, find_world, is_first_process
from kat.training.run_directory import (
    SETTINGS,
    Checkpoint,
    check_data,
    check_run_directory,
    newest_checkpoint,
    read_data_record,
    read_settings,
    settings_to_keep,
    with_resumption_decided,
)
from kat.training.tasks.registry import TASKS, check_used
from kat.training.tasks.task import Task

_PROCESSES_ON_A_CPU = 8
"""Started on a CPU even if it has fewer cores, to try out several processes."""


@dataclass(frozen=True)
class ResolvedRun:
    """All that a run is made from.

    Args:
        config: the settings, none of them auto.
        task: what the data is for.
        record: the record of the model.
        source: the trained ViT or KAT that the run starts from.
        checkpoint: what a resumed run continues from.
        data: what later resumptions compare their data with.
        train_data, val_data: the splits, with their transforms.
        device: what this process computes on.
        world: its place among those that train together.
        notes: what was chosen for the user, and what of the data is skipped; one line each.
    """

    config: TrainConfig
    task: Task
    record: ModelRecord
    source: ViTSource | None
    checkpoint: Checkpoint | None
    data: dict[str, Any]
    train_data: ImageDataset | ImageStream
    val_data: ImageDataset | ImageStream
    device: torch.device
    world: World
    notes: tuple[str, ...]


def resolve(config: TrainConfig) -> ResolvedRun:
    """Opens the data and the checkpoint, and settles every setting that is auto.

    Raises:
        InputError: bad settings or data, or a directory that already holds a run.
    """
    config = with_resumption_decided(check(config))
    check_services(config)
    device_type, world = _processes(config)
    checkpoint = _checkpoint(config)
    seed_all(config.seed)
    given, source = config, _source(config)
    config = from_run(config) if config.resume else from_source(config, source)
    if config.resume:
        data = located(vars(config.data), read_data_record(Path(config.out)))
        config = dataclasses.replace(config, data=DataConfig(**data))
    train_data = open_split(config.data, "train", config.seed)
    val_data = open_split(config.data, "val")
    task = TASKS[train_data.task]
    check_used(given, train_data.task)
    check_classes(train_data, val_data)
    data = data_record(config.data, train_data, val_data)
    changed = check_data(config, data)
    config = check(from_images(config, len(train_data)))
    if source is not None:
        if task.on_grid:
            source = source.for_grid()
        config = _with_args(config, {**source.args_for(config.model.name), **config.model.args})
    args = task.model_args(config.model.args, train_data, val_data)
    config = _with_args(config, args)
    record = make_record(config, train_data)
    # A file of coefficients may be gone when the run is resumed: run.yaml keeps what it held.
    config = _with_args(config, record.args)
    train_data.transform, val_data.transform = task.transforms(record, config)
    return ResolvedRun(
        config=config,
        task=task(config, record),
        record=record,
        source=None if source is None else source.for_classes(record.classes),
        checkpoint=checkpoint,
        data=data,
        train_data=train_data,
        val_data=val_data,
        device=_device(device_type, world),
        world=world,
        notes=_notes(
            changed, train_data.note, val_data.note, *describe(given, config), _resumed_with(config)
        ),
    )


def _resumed_with(config: TrainConfig) -> str:
    """The settings of a resumed run that are not those that it began with."""
    path = Path(config.out)
    if not config.resume or not (path / SETTINGS).is_file():
        return ""
    before, now = flat(read_settings(path)), flat(settings_to_keep(config))
    changed = [
        f"{name}={value} ({before[name]} before)"
        for name, value in now.items()
        if name in before
        and before[name] != value
        and name not in ("out", "data.name", "data.root")
    ]
    return f"resumed with other settings: {', '.join(changed)}" if changed else ""


def make_record(config: TrainConfig, data: ImageDataset | ImageStream) -> ModelRecord:
    """The record of the model that a run is to train on this data."""
    spec = preprocessing(config.data, data)
    return ModelRecord(
        architecture=config.model.name,
        args=config.model.args,
        classes=data.classes,
        category_ids=getattr(data, "category_ids", None),
        **spec._asdict(),
    )


def _processes(config: TrainConfig) -> tuple[str, World]:
    """The kind of device, and the processes that train."""
    found = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if found is None else found.type
    kind = {"auto": available, "gpu": "cuda"}.get(config.accelerator, config.accelerator)
    if kind not in ("cpu", available):
        raise InputError(f"accelerator={config.accelerator} is unavailable: this machine has none")
    present = torch.cuda.device_count() if kind == "cuda" else 1
    world = find_world(config.devices, config.num_nodes, present)
    if kind == "cuda" and world.local_size > present:
        raise InputError(f"{world.local_size} processes, but this machine has {present} GPUs")
    most = max(_PROCESSES_ON_A_CPU, os.cpu_count() or 1)
    if kind == "cpu" and world.local_size > most:
        raise InputError(f"devices={config.devices} is too many: at most {most} on this CPU")
    if config.strategy == "fsdp" and config.precision == "16-mixed":
        raise InputError("precision=16-mixed does not work with strategy=fsdp: take bf16-mixed")
    if kind == "mps" and config.precision == "64-true":
        raise InputError("precision=64-true needs float64, which MPS does not have")
    return kind, world


def _device(kind: str, world: World) -> torch.device:
    return torch.device(kind, world.local_rank) if kind == "cuda" else torch.device(kind)


def _checkpoint(config: TrainConfig) -> Checkpoint | None:
    """What the run continues from."""
    if is_first_process():
        check_run_directory(config)
    if not config.resume:
        return None
    checkpoint = newest_checkpoint(Path(config.out))
    for line in checkpoint.damaged if is_first_process() else []:
        say(line)
    return checkpoint


def _source(config: TrainConfig) -> ViTSource | None:
    if config.resume or config.model.init_from is None:
        return None
    return read_vit(config.model.init_from)


def _with_args(config: TrainConfig, args: dict[str, Any]) -> TrainConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, args=args))


def _notes(*lines: str) -> tuple[str, ...]:
    """The lines that say something, each once: both splits may say the same."""
    return tuple(line for line in dict.fromkeys(lines) if line)
