"""Resolve the settings of a run to all that it works with, in five steps; nothing is written.

resumption -> source -> data -> auto -> record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

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
from kat.settings import AUTO, check_ranges, flat
from kat.text import listing
from kat.training.callbacks.loggers import check_services
from kat.training.cluster.processes import World, find_place, is_first_process
from kat.training.config import TrainConfig
from kat.training.record.run_directory import (
    Checkpoint,
    Resumption,
    find_resumption,
    settings_to_keep,
)
from kat.training.settings.auto_settings import resolve_auto
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


class RunData(NamedTuple):
    """The data of a run: its settings, its splits, its record, and how that has changed."""

    config: DataConfig
    train: ImageDataset
    val: ImageDataset
    record: dict[str, Any]
    changed: str


def resolve(config: TrainConfig) -> ResolvedRun:
    """Open data and checkpoint, and resolve every setting that is auto.

    Raises:
        InputError: bad settings or data, or a directory that already holds a run.
    """
    given = check_ranges(config)
    typed = flat(asdict(given))
    device, world = find_place(given.accelerator, given.devices, given.num_nodes)
    resumption = find_resumption(Path(given.out), given.resume, given.overwrite, is_first_process())
    _check_start(typed, flat(resumption.settings))
    seed_all(given.seed)
    source = None
    if given.model.init_from and not resumption.resume:
        source = read_vit(given.model.init_from)
    data = _data(given, resumption)
    _check_used(typed, data.train.task)
    known = replace(
        given, resume=resumption.resume, overwrite=resumption.overwrite, data=data.config
    )
    settled, reason = resolve_auto(known, data.train, resumption.settings, source, device)
    final, record, task, source = _record(check_ranges(settled), source, data)
    check_services(final.loggers)
    return ResolvedRun(
        config=final,
        task=task,
        record=record,
        source=source,
        checkpoint=resumption.checkpoint,
        data=data.record,
        train_data=data.train,
        val_data=data.val,
        device=device,
        world=world,
        notes=_notes(typed, final, resumption, data, reason),
    )


def _data(config: TrainConfig, resumption: Resumption) -> RunData:
    """Open both splits, and compare them with the data of the run that is resumed.

    Raises:
        InputError: the data has changed, and ``accept_changed_data`` is not set.
    """
    where = DataConfig(**located(vars(config.data), resumption.data))
    # skipped files have the same names wherever the run is resumed
    whole = DataConfig(**located(vars(where), {"paths": absolute_paths(where)}))
    train, val = open_split(whole, "train"), open_split(whole, "val")
    check_classes(train, val)
    record = data_record(where, train, val)
    changed = "; ".join(differences(resumption.data, record)) if resumption.data else ""
    if changed and not config.accept_changed_data:
        raise InputError(
            f"{where.name} is not the data that {config.out} began with: {changed}. Resume with"
            " the data as it was, or accept the change with --accept-changed-data true"
        )
    return RunData(where, train, val, record, changed)


def _check_start(typed: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Check that a run that is resumed has started from the model that the settings name.

    Raises:
        InputError: it has started from another.
    """
    for name in ("model.init_from", "model.functions_from"):
        if typed[name] not in (None, before.get(name, typed[name])):
            raise InputError(
                f"{name} was {before[name]} at the start of the run: leave it out, or start a new"
                " run with another --out"
            )


def _check_used(typed: Mapping[str, Any], task: str) -> None:
    """Check that settings that only other tasks use have their defaults.

    Raises:
        InputError: one differs from its default.
    """
    default = flat(asdict(TrainConfig()))
    of_tasks = chain.from_iterable(other.settings for other in TASKS.values())
    unused = tuple(f"{name}." for name in set(of_tasks).difference(TASKS[task].settings))
    for name, value in typed.items():
        if f"{name}.".startswith(unused) and value != default[name]:
            raise InputError(
                f"{name}={value} has no effect on {task}: leave it out, or take a recipe for {task}"
                f" such as {TASKS[task].recipe}"
            )


def _record(
    config: TrainConfig, source: ViTSource | None, data: RunData
) -> tuple[TrainConfig, ModelRecord, Task, ViTSource | None]:
    """Make the record of the model and the task, and fit the source and the splits to them."""
    kind = TASK_CLASSES[data.train.task]
    args = config.model.args
    if source is not None:
        if kind.declared.on_grid:
            source = source.for_grid()
        source = source.for_classes(data.train.classes)
        args = {**source.args_for(config.model.name), **args}
    record = ModelRecord(
        architecture=config.model.name,
        args={**args, **getattr(data.train, "model_args", {})},
        classes=data.train.classes,
        category_ids=getattr(data.train, "category_ids", None),
        **preprocessing(config.data, data.train)._asdict(),
    )
    # A file of coefficients may be gone when the run is resumed: run.yaml keeps its content.
    config = replace(config, model=replace(config.model, args=record.args))
    data.train.transform, data.val.transform = kind.transforms(record, config)
    return config, record, kind(config, record), source


def _notes(
    typed: Mapping[str, Any],
    final: TrainConfig,
    resumption: Resumption,
    data: RunData,
    reason: str,
) -> tuple[str, ...]:
    """Return the lines for the user, each once: both splits may have the same.

    Args:
        typed: the settings as they were given, by dotted names.
        final: none of them auto.
        resumption: the run that is resumed.
        data: the data of the run.
        reason: the reasons for a model that was chosen.
    """
    lines = [*resumption.checkpoint.damaged] if resumption.checkpoint else []
    if data.changed:
        lines.append(f"the data has changed since the run began: {data.changed}")
    lines += [*data.train.note.splitlines(), *data.val.note.splitlines()]
    now, before = flat(settings_to_keep(final)), flat(resumption.settings)
    chosen, others = [], []
    for name, value in now.items():
        if typed.get(name) == AUTO and value not in (AUTO, None):
            chosen.append(f"{name}={value}")
        if name not in ("out", "data.name", "data.root") and value != before.get(name, value):
            others.append(f"{name}={value} ({before[name]} before)")
    if chosen:
        task = data.train.task
        is_own = typed["optim.rational_warmup_epochs"] == AUTO  # as in these recipes alone
        by = f" as by --config {TASKS[task].recipe}, for {task}" if is_own else ""
        lines.append(f"chosen{by}: {', '.join(chosen)}{reason and f' ({reason})'}")
    if typed["loss.class_weights"] == "balanced":
        pairs = zip(data.train.classes, now["loss.class_weights"], strict=True)
        weights = [f"{name} {weight:.4g}" for name, weight in pairs]
        lines.append(f"class weights: {listing(weights, 8)}")
    if final.loss.class_weights is None:
        lines.append(data.train.imbalance())
    for name in ("optim.warmup_epochs", "optim.rational_warmup_epochs"):
        if typed[name] not in (AUTO, now[name]):
            lines.append(
                f"{name}={typed[name]:g} is shortened to {now[name]:g}: the run has"
                f" {now['epochs']} epochs"
            )
    if others:
        lines.append(f"resumed with other settings: {', '.join(others)}")
    return tuple(line for line in dict.fromkeys(lines) if line)
