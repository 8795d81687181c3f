"""Resolve the settings of a run to all that it works with, in five steps; nothing is written.

resumption -> source -> data -> auto -> record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from kat.data import (
    DataConfig,
    ImageDataset,
    check_classes,
    data_record,
    differences,
    located,
    open_split,
    preprocessing,
    seed_all,
)
from kat.data.record import absolute_paths
from kat.errors import InputError
from kat.models import ModelRecord, ViTSource, read_vit
from kat.settings import flat
from kat.training.callbacks.loggers import check_services
from kat.training.cluster.processes import World, find_place, is_first_process
from kat.training.config import ModelConfig, TrainConfig
from kat.training.record.run_directory import (
    Checkpoint,
    Resumption,
    find_resumption,
    settings_to_keep,
    unlike_default,
)
from kat.training.settings.auto_settings import resolve_auto
from kat.training.settings.recipes import config_from
from kat.training.tasks.classes import TASK_CLASSES
from kat.training.tasks.registry import TASKS
from kat.training.tasks.task import Task


@dataclass(frozen=True)
class ResolvedRun:
    """All that a run is made from.

    Args:
        config: the settings, none of them auto.
        task: the task of the data.
        record: the record of the model.
        source: the trained ViT or KAT that the run starts from.
        checkpoint: the checkpoint that a resumed run continues from.
        data: the record of the data, which later resumptions compare with theirs.
        train_data, val_data: the splits, with their transforms.
        device: the device of this process.
        world: its place among the processes that train together.
        notes: the settings that were chosen, the files that are skipped, ...; one line each.
    """

    config: TrainConfig
    task: Task
    record: ModelRecord
    source: ViTSource | None
    checkpoint: Checkpoint | None
    data: dict[str, Any]
    train_data: ImageDataset
    val_data: ImageDataset
    device: torch.device
    world: World
    notes: tuple[str, ...]


def resolve(given: TrainConfig | Mapping[str, Any]) -> ResolvedRun:
    """Validate settings, open data and checkpoint, and determine every setting that is auto.

    Args:
        given: the settings, or a mapping of them as :func:`given_settings` returns it.

    Raises:
        InputError: bad settings or data, or a directory that already holds a run.
    """
    config = config_from(given)
    device, world = find_place(config.accelerator, config.devices, config.num_nodes)
    config, resumption = _resumption(config)
    seed_all(config.seed)
    source = _source(config.model, resumption)
    train, val, data, notes = _data(config, resumption)
    config, lines = resolve_auto(config, train, resumption.settings, source, device)
    config, source, record = _record(config, source, train)
    check_services(config.loggers)
    kind = TASK_CLASSES[train.task]
    train.transform, val.transform = kind.transforms(record, config)
    return ResolvedRun(
        config=config,
        task=kind(config, record),
        record=record,
        source=source,
        checkpoint=resumption.checkpoint,
        data=data,
        train_data=train,
        val_data=val,
        device=device,
        world=world,
        notes=_notes(config, resumption, [*notes, *lines]),
    )


def _resumption(config: TrainConfig) -> tuple[TrainConfig, Resumption]:
    """Find the run that is resumed, and return the settings with the place of its data."""
    found = find_resumption(Path(config.out), config.resume, config.overwrite, is_first_process())
    data = DataConfig(**located(vars(config.data), found.data))
    is_resumed = found.checkpoint is not None
    return replace(config, resume=is_resumed, overwrite=found.overwrite, data=data), found


def _source(model: ModelConfig, resumption: Resumption) -> ViTSource | None:
    """Read the model that a new run starts from.

    Raises:
        InputError: a run that is resumed has started from another.
    """
    before = resumption.settings.get("model", {})
    for name in ("init_from", "functions_from"):
        value = getattr(model, name)
        if value not in (None, before.get(name, value)):
            raise InputError(
                f"model.{name} was {before[name]} at the start of the run: leave it out, or start a"
                " new run with another --out"
            )
    if model.init_from is None or resumption.checkpoint is not None:
        return None
    return read_vit(model.init_from)


def _data(
    config: TrainConfig, resumption: Resumption
) -> tuple[ImageDataset, ImageDataset, dict[str, Any], list[str]]:
    """Open both splits, and return them, their record and lines for the user.

    Raises:
        InputError: the data is not that of the run that is resumed, and ``accept_changed_data`` is
            not set; or a setting that only other tasks use differs from its default.
    """
    # skipped files have the same names wherever the run is resumed
    whole = DataConfig(**located(vars(config.data), {"paths": absolute_paths(config.data)}))
    train, val = open_split(whole, "train"), open_split(whole, "val")
    check_classes(train, val)
    record = data_record(config.data, train, val)
    notes = [*train.note.splitlines(), *val.note.splitlines()]
    if resumption.data and (changes := differences(resumption.data, record)):
        changed = "; ".join(changes)
        if not config.accept_changed_data:
            raise InputError(
                f"{config.data.name} is not the data that {config.out} began with: {changed}."
                " Resume with the data as it was, or accept the change with --accept-changed-data"
                " true"
            )
        notes.insert(0, f"the data has changed since the run began: {changed}")
    task = TASKS[train.task]
    of_tasks = chain.from_iterable(other.settings for other in TASKS.values())
    unused = tuple(f"{name}." for name in set(of_tasks).difference(task.settings))
    for name, value in unlike_default(settings_to_keep(config)).items():
        if f"{name}.".startswith(unused):
            raise InputError(
                f"{name}={value} has no effect on {task.name}: leave it out, or take a recipe for"
                f" {task.name} such as {task.recipe}"
            )
    return train, val, record, notes


def _record(
    config: TrainConfig, source: ViTSource | None, data: ImageDataset
) -> tuple[TrainConfig, ViTSource | None, ModelRecord]:
    """Return the settings with all arguments of the model, the source for them, and the record."""
    args = {**config.model.args, **getattr(data, "model_args", {})}
    if source is not None:
        if TASKS[data.task].on_grid:
            source = source.for_grid()
        source = source.for_classes(data.classes)
        args = {**source.args_for(config.model.name), **args}
    record = ModelRecord(
        architecture=config.model.name,
        args=args,
        classes=data.classes,
        category_ids=getattr(data, "category_ids", None),
        **preprocessing(config.data, data)._asdict(),
    )
    # A file of coefficients may be gone when the run is resumed: run.yaml keeps its content.
    model = replace(config.model, args=record.args)
    return replace(config, model=model), source, record


def _notes(config: TrainConfig, resumption: Resumption, lines: list[str]) -> tuple[str, ...]:
    """Return the lines for the user, each once: both splits may have the same.

    Args:
        config: the settings, none of them auto.
        resumption: the run that is resumed.
        lines: about the data, and the settings that were auto.
    """
    damaged = resumption.checkpoint.damaged if resumption.checkpoint else []
    now, before = flat(settings_to_keep(config)), flat(resumption.settings)
    for name in ("out", "data.name", "data.root"):
        before.pop(name, None)
    others = [f"{n}={v} ({before[n]} before)" for n, v in now.items() if v != before.get(n, v)]
    last = others and [f"resumed with other settings: {', '.join(others)}"]
    return tuple(line for line in dict.fromkeys([*damaged, *lines, *last]) if line)
