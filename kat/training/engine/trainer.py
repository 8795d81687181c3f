"""Train a model: resolve, build, fit; and write the run directory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kat.documents import write_json
from kat.models import load_model, save_model
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.coefficients import CoefficientRecorder
from kat.training.callbacks.divergence import DivergenceGuard
from kat.training.callbacks.limits import Limits
from kat.training.callbacks.loggers import Loggers
from kat.training.callbacks.progress import QUIET_SECONDS, Bar, Lines, is_interactive
from kat.training.callbacks.stability import StabilityRecorder
from kat.training.callbacks.throughput import Throughput
from kat.training.cluster.collectives import broadcast, gather
from kat.training.cluster.processes import (
    connect,
    disconnect,
    is_first_process,
    launch,
    one_message,
)
from kat.training.config import TrainConfig
from kat.training.engine.build import build
from kat.training.engine.checks import check_run
from kat.training.engine.loop import fit
from kat.training.record.checkpoint import check_disk, load_checkpoint
from kat.training.record.provenance import provenance
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import (
    BEST,
    CONVERSION,
    SUMMARY,
    locked_run,
    prepare_run_directory,
)
from kat.training.settings.resolve import ResolvedRun, resolve


@dataclass
class Summary:
    """The result of a run.

    Args:
        out: the run directory.
        model: name of the model.
        task: classification, detection or segmentation.
        parameters: number of parameters.
        metrics: metrics of the kept weights on the validation split, in percent, e.g. top1, miou.
        epochs: number of epochs trained.
        best_epoch: the epoch whose weights are kept, from 1.
        validation_images: the images that chose it; those that cannot be read are counted, too.
        seconds: wall time of training and validation, resumptions included.
        images_per_second: throughput of training, without validation.
        memory_bytes: peak of the GPU's memory, else of the first process without workers.
        worker_memory_bytes: sum of the peaks of the workers that load training images; pages that
            they share count for each.
        skipped: files that were left out: unreadable images, and files that are no images.
        provenance: ``commit`` of the library, or its version without a checkout, with ``+`` if
            files of it differ; the version of ``torch``; its ``threads``; ``processor``, the name
            of the GPU or the CPU; and ``kernel`` of rationals there: ``triton``, the CPU's
            instruction set, or ``off``.

    Examples:
        >>> from pathlib import Path
        >>> import json
        >>> summary = json.loads(Path("runs/digits/summary.json").read_text())
        >>> summary["model"], summary["epochs"]
        ('kat_micro_patch2_8', 2)
    """

    out: str
    model: str
    task: str
    parameters: int
    metrics: dict[str, float]
    epochs: int
    best_epoch: int
    validation_images: int
    seconds: float
    images_per_second: float
    memory_bytes: int
    worker_memory_bytes: int
    skipped: int
    provenance: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of summary.json, all in one mapping; JSON has no NaN."""
        content = dataclasses.asdict(self)
        metrics = content.pop("metrics")
        content |= content.pop("provenance")
        for name, value in metrics.items():
            content[name] = None if math.isnan(value) else value
        return content


def train(config: TrainConfig | Mapping[str, Any]) -> Summary:
    """Train a model and write its run directory.

    The directory holds run.yaml (the resolved settings), best.ckpt, last.ckpt and the one before
    it, previous.ckpt, the best weights as model.safetensors with config.json, history.csv (one row
    an epoch), metrics.csv (every few steps), tensorboard/, coefficients.csv (of the rationals, over
    the training), skipped.csv (the files left out) and summary.json; where the run starts from a
    ViT, conversion.json lists the parameters that were carried over. data.json records the data.
    Nothing but a lock is written before everything that can be checked has been.

    A run that is stopped in any way and resumed gives the same weights, EMA and metrics, bit by
    bit, as one that is not. With several devices, this process starts the command that it runs once
    for each, and exits with their exit code.

    Args:
        config: the settings; or all of them as nested mappings, as run.yaml has them.

    Raises:
        InputError: bad settings or data, too little disk space for the checkpoints, or a directory
            that already holds a run or is being written by another.
        TrainingDiverged: loss, gradient or the state of training are not finite; divergence.json
            and the newest finite state are then in the directory.
        CheckpointFailed: a checkpoint cannot be written; the one before it is still there.
        Interrupted: a signal asked to stop; the state is in last.ckpt.

    Examples:
        >>> from kat.data import DataConfig
        >>> from kat.training import ModelConfig, TrainConfig, train
        >>> config = TrainConfig(
        ...     out="runs/short",
        ...     epochs=1,
        ...     limit_train_batches=2,
        ...     accelerator="cpu",
        ...     model=ModelConfig("kat_micro_patch2_8", {"depth": 1}),
        ...     data=DataConfig("digits"),
        ... )
        >>> summary = train(config)
        epoch 1/1  train loss 2.3...
        >>> sorted(summary.metrics)
        ['top1', 'top5']
    """
    given = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    lock = locked_run(Path(given["out"])) if is_first_process() else nullcontext()
    with one_message():
        with lock:
            resolved = resolve(given)
            if not resolved.world.needs_launch:
                return _train(resolved)
        # The lock is free for the first process that is launched, which resolves anew.
        return launch(resolved.world)


@contextmanager
def open_run(resolved: ResolvedRun) -> Iterator[Run]:
    """Connect the processes, build the run and check it; at the end close it and disconnect.

    Raises:
        InputError: settings that do not fit the model, the data or the checkpoint.
    """
    try:
        connect(resolved.world, resolved.device)
        run = build(resolved)
        check_run(run, resolved)
        with closing(run.train_loader), closing(run.val_loader):
            yield run
    finally:
        disconnect()


def _train(resolved: ResolvedRun) -> Summary:
    """Train in this process, one of the processes of the run."""
    with open_run(resolved) as run:
        throughput, made_by = Throughput(), provenance(run.device)
        run.callbacks = make_callbacks(run, throughput)
        if run.is_first:
            if resolved.checkpoint is None:
                check_disk(run)
            run.id = prepare_run_directory(run.config, resolved.data, resolved.checkpoint)
        run.id = broadcast(run.id)
        if resolved.checkpoint is not None:
            load_checkpoint(run, resolved.checkpoint)
        for note in resolved.notes:
            run.print(note)
        if run.conversion is not None and run.is_first:
            run.conversion.save(run.out / CONVERSION)
            run.print(f"{run.conversion.summary()}; {run.out / CONVERSION} lists them")
        fit(run)
        return _finish(run, throughput, made_by)


def make_callbacks(run: Run, throughput: Throughput) -> list[Callback]:
    """Make the callbacks of a run, in the order in which they are called."""
    bar = is_interactive(run.config)
    return [
        Loggers(),
        throughput,
        Lines(throughput, math.inf if bar else QUIET_SECONDS),
        *([Bar(throughput)] if bar else []),
        Limits(),
        DivergenceGuard(),
        CoefficientRecorder(),
        *([] if run.monitor is None else [StabilityRecorder(run.monitor)]),
        Checkpoints(),
    ]


def _finish(run: Run, throughput: Throughput, made_by: dict[str, str]) -> Summary:
    out, state = run.out, run.state
    gather(None)  # until the first process has written everything
    model, record = load_model(out / BEST)
    best = state.best
    metrics = {metric.name: best[metric.name] for metric in run.task.metrics}
    summary = Summary(
        out=str(out),
        model=run.config.model.name,
        task=run.task.declared.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        metrics=metrics,
        epochs=len(state.history),
        best_epoch=int(best["epoch"]),
        validation_images=run.val_loader.order.length,
        seconds=state.seconds,
        images_per_second=run.meter.read().images_per_second,
        memory_bytes=throughput.peak,
        worker_memory_bytes=throughput.worker_peak,
        skipped=len(state.skipped),
        provenance=made_by,
    )
    if state.batch and summary.best_epoch < summary.epochs:
        run.print(f"epoch {summary.epochs} was cut short: the best of the whole epochs is kept")
    if run.is_first:
        save_model(model, record, out)
        write_json(out / SUMMARY, summary.to_dict())
    return summary
