"""``train``: resolve, build, fit; and the directory that a run leaves."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kat.errors import CheckpointFailed, InputError
from kat.files import write_text
from kat.models import load_model, save_model
from kat.training.build import Run, build
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.coefficients import CoefficientRecorder
from kat.training.callbacks.divergence import DivergenceGuard
from kat.training.callbacks.limits import Limits
from kat.training.callbacks.loggers import Status, close_loggers, open_loggers
from kat.training.callbacks.progress import Bar, EpochLines, StepLines, is_interactive
from kat.training.callbacks.stability import StabilityRecorder
from kat.training.callbacks.throughput import Throughput
from kat.training.checkpoint import load_checkpoint
from kat.training.config import TrainConfig
from kat.training.distributed import barrier, broadcast, disconnect, is_first_process
from kat.training.loop import fit
from kat.training.resolve import ResolvedRun, resolve
from kat.training.run_directory import (
    BEST,
    CONVERSION,
    SUMMARY,
    locked_run,
    prepare_run_directory,
    remove_run,
    write_records,
)


@dataclass
class Summary:
    """The result of a run.

    Args:
        out: the run directory.
        model: its name.
        task: classification, detection or segmentation.
        parameters: how many it has.
        metrics: of the kept weights on the validation split, in percent, e.g. top1, box_ap, miou.
        epochs: how many were trained.
        best_epoch: the epoch whose weights are kept, from 1.
        seconds: wall time of training and validation, resumptions included.
        images_per_second: trained on, without validation.
        memory_bytes: the peak: on a GPU of its memory, else of the first process without workers.
        worker_memory_bytes: the peaks of the workers that load its training images, in all; pages
            that they share count for each.
        skipped: files that were left out: unreadable images, and files that are no images.

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
    seconds: float
    images_per_second: float
    memory_bytes: int
    worker_memory_bytes: int
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """The contents of summary.json: the metrics among the rest; JSON has no NaN."""
        rest = dataclasses.asdict(self)
        metrics: dict[str, float] = rest.pop("metrics")
        return {**rest, **{n: None if math.isnan(value) else value for n, value in metrics.items()}}


def train(config: TrainConfig) -> Summary:
    """Trains a model and writes its run directory.

    The directory holds run.yaml (the resolved settings), best.ckpt, last.ckpt and the one before
    it, previous.ckpt, the best weights as model.safetensors with config.json, history.csv (one row
    an epoch), metrics.csv (every few steps), tensorboard/, coefficients.csv (of the rationals, over
    the training), skipped.csv (the files left out) and summary.json; where the run starts from a
    ViT, conversion.json says what was carried over. data.json records the data. Nothing but a lock
    is written before everything that can be checked has been.

    A run that is stopped in any way and resumed, with the same processes, gives the same weights,
    EMA and metrics, bit by bit, as one that is not.

    Args:
        config: the settings.

    Raises:
        InputError: bad settings or data, or a directory that already holds a run or is being
            written by another.
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
    with locked_run(Path(config.out)) if is_first_process() else nullcontext():
        resolved = resolve(config)
        try:
            return _train(build(resolved), resolved)
        except OSError as error:
            raise _explained(error, resolved.config.out) from None
        finally:
            disconnect()


def _train(run: Run, resolved: ResolvedRun) -> Summary:
    throughput = Throughput()
    run.callbacks = make_callbacks(run, throughput)
    status: Status = "failed"
    try:
        _prepare(run, resolved)
        fit(run)
        status = "finished"
    finally:
        run.train_loader.close()
        run.val_loader.close()
        close_loggers(run.loggers, status)
    return _finish(run, throughput)


def make_callbacks(run: Run, throughput: Throughput) -> list[Callback]:
    """The callbacks of a run, in the order in which they are called.

    Raises:
        InputError: the model has nothing to monitor.
    """
    config, guard = run.config, DivergenceGuard()
    shown: Callback = Bar(throughput) if is_interactive(config) else StepLines(throughput)
    callbacks = [throughput, EpochLines(throughput), shown, Limits(config), guard]
    callbacks.append(CoefficientRecorder())
    if config.monitor.enabled:
        callbacks.append(StabilityRecorder(run.model, config.monitor.every_n_steps))
    return [*callbacks, Checkpoints(config.checkpoint, guard)]


def _prepare(run: Run, resolved: ResolvedRun) -> None:
    """Writes what a run begins with, and restores one that is resumed."""
    run.id = broadcast(
        prepare_run_directory(run.config, resolved.data, resolved.checkpoint)
        if run.is_first
        else ""
    )
    if resolved.checkpoint is not None:
        load_checkpoint(run, resolved.checkpoint)
    if not run.is_first:
        return
    try:
        run.loggers = open_loggers(run.config, run.state.step)
    except InputError:
        if not run.config.resume:
            remove_run(run.out)
        raise
    for note in resolved.notes:
        run.print(note)
    if run.conversion is not None:
        path = run.out / CONVERSION
        run.conversion.save(path)
        run.print(f"{run.conversion.summary()}; {path} lists them")
    ignored = resolved.train_data.ignored | resolved.val_data.ignored
    for name, reason in ignored.items():
        run.skip(name, reason)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""The numbers of errors on a full or read-only disk."""


def _explained(error: OSError, out: str) -> Exception:
    """The error, in a line where it says that there is no room."""
    if error.errno in _NO_ROOM:
        return CheckpointFailed(f"{out} cannot be written: {error}")
    return error


def _finish(run: Run, throughput: Throughput) -> Summary:
    out, state = run.out, run.state
    barrier()
    model, record = load_model(out / BEST)
    best = state.best
    summary = Summary(
        out=str(out),
        model=run.config.model.name,
        task=run.task.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        metrics={metric.name: best[metric.name] for metric in run.task.metrics},
        epochs=len(state.history),
        best_epoch=int(best["epoch"]),
        seconds=state.seconds,
        images_per_second=throughput.total.images_per_second,
        memory_bytes=throughput.peak,
        worker_memory_bytes=throughput.worker_peak,
        skipped=len(state.skipped),
    )
    if state.batch and summary.best_epoch < summary.epochs:
        run.print(f"epoch {summary.epochs} was cut short: the best of the whole epochs is kept")
    if run.is_first:
        write_records(out, state)
        save_model(model, record, out)
        write_text(out / SUMMARY, json.dumps(summary.to_dict(), indent=2) + "\n")
    return summary
