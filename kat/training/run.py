"""One training run, from settings to a folder of results."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from torch import nn

from kat.data import (
    ImageSet,
    ImageStream,
    Loader,
    check_classes,
    make_loader,
    open_split,
    preprocessing,
)
from kat.errors import CheckpointFailed, InputError
from kat.files import write_text
from kat.models import (
    Conversion,
    ModelRecord,
    ViTSource,
    build_model,
    init_from_vit,
    load_model,
    load_weights,
    read_training_checkpoint,
    read_vit,
    save_model,
)
from kat.models.dense import task_of
from kat.training.auto_settings import describe, from_images, from_run, from_source
from kat.training.checkpoints import Checkpoints, ExactResume
from kat.training.config import TrainConfig, check
from kat.training.distributed import end_with_first, is_first_process
from kat.training.divergence import DivergenceGuard
from kat.training.freeze import freeze
from kat.training.lightning_setup import make_trainer, quiet
from kat.training.limits import Limits, check_share, length
from kat.training.loggers import check_services, local_loggers, start_logging
from kat.training.module import TaskModule
from kat.training.monitoring import Monitor, RecordCoefficients, RecordStability
from kat.training.optimizer import check_layout, make_optimizer
from kat.training.progress import Bar, EpochLines, SpeedLog, StepLines, is_interactive
from kat.training.run_directory import (
    BEST,
    CONVERSION,
    SUMMARY,
    check_folder,
    prepare_folder,
    resumed_from,
    with_resumption_decided,
    write_records,
)
from kat.training.tasks.registry import TASKS, check_task, check_used
from kat.training.throughput import Meter


@dataclass
class Summary:
    """What came out of a run.

    Args:
        out: the run's folder.
        model: its name.
        task: what it is for: classification, detection or segmentation.
        parameters: how many it has.
        scores: of the kept weights on the validation split in per cent, e.g. top1, box_ap, miou.
        epochs: how many were trained.
        seconds: wall time of training and validation, resumptions included.
        images_per_second: trained on, validation left out.
        memory_bytes: the most that it took: on a GPU of its memory, else of this process.
        skipped: files that were left out: unreadable images, and files that are no images.
    """

    out: str
    model: str
    task: str
    parameters: int
    scores: dict[str, float]
    epochs: int
    seconds: float
    images_per_second: float
    memory_bytes: int
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """The contents of summary.json: the scores among the rest; JSON has no NaN."""
        rest = dataclasses.asdict(self)
        scores: dict[str, float] = rest.pop("scores")
        return {**rest, **{n: None if math.isnan(score) else score for n, score in scores.items()}}


def train(config: TrainConfig, monitor: Monitor | None = None) -> Summary:
    """Trains a model and writes its folder.

    The folder holds run.yaml (the resolved settings), best.ckpt, last.ckpt and the one before it,
    previous.ckpt, the best weights as model.safetensors with config.json, history.csv (one row an
    epoch), coefficients.csv (of the rationals, over the training), skipped.csv (the files left
    out), summary.json, and the logs of every step in csv/ and tensorboard/; where the run starts
    from a ViT, conversion.json says what was carried over. It is not touched before everything that
    can be checked has been.

    A run that is stopped in any way and resumed, with the same processes, gives the same weights,
    averages and metrics, bit by bit, as one that is not.

    Args:
        config: the settings.
        monitor: records the GR-KAN layers in stability.csv, where ``config.monitor.enabled`` asks
            for it: a ``kat.analysis.StabilityMonitor``.

    Raises:
        InputError: bad settings or data, or a folder that already holds a run.
        TrainingDiverged: loss, gradient or the state of training are not finite; divergence.json
            and the newest finite state are then in the folder.
        CheckpointFailed: a checkpoint cannot be written; the one before it is still there.
        Interrupted: a signal asked to stop; the state is in last.ckpt.
    """
    end_with_first()
    assembly = assemble(config, monitor)
    config, module = assembly.config, assembly.module
    with quiet():
        trainer, checkpoints, speed = _make_trainer(config, monitor, assembly.train_loader)
        if is_first_process():
            prepare_folder(config, assembly.checkpoint)
            start_logging(trainer, config)
            sys.stdout.writelines(f"{line}\n" for line in assembly.notes)
            if assembly.started is not None:
                _tell(assembly.started, Path(config.out))
        ignored = assembly.train_data.ignored | assembly.val_data.ignored
        for path, reason in ignored.items() if is_first_process() else ():
            module.skip(path, reason)
        fit(trainer, assembly, assembly.checkpoint)
    return _finish(config, module, trainer, checkpoints, speed)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What a full or read-only disk gives to those who write logs."""


def _explained(error: OSError, out: str) -> Exception:
    """The error, in a line where it says that there is no room."""
    if error.errno in _NO_ROOM:
        return CheckpointFailed(f"{out} cannot be written: {error}")
    return error


def fit(trainer: Trainer, assembly: Assembly, checkpoint: Path | None = None) -> None:
    """Trains, from a checkpoint on if one is given, and ends the workers that read the data.

    Raises:
        CheckpointFailed: the run's folder can no longer be written.
    """
    loaders = assembly.train_loader, assembly.val_loader
    try:
        trainer.fit(assembly.module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except OSError as error:
        raise _explained(error, assembly.config.out) from None
    finally:
        for loader in loaders:
            loader.close()


class Assembly(NamedTuple):
    """All that a run needs but its Trainer.

    Args:
        config: the settings, with what a ViT's weights and the data have decided.
        record: describes the model.
        module: the model, ready to be trained.
        train_loader, val_loader: batches of the two splits.
        train_data, val_data: the splits themselves.
        started: what was carried over from a ViT, where the run starts from one.
        checkpoint: what a resumed run goes on from.
        notes: what was chosen that the user did not say, and what of the data is skipped; one line
            each.
    """

    config: TrainConfig
    record: ModelRecord
    module: TaskModule
    train_loader: Loader
    val_loader: Loader
    train_data: ImageSet | ImageStream
    val_data: ImageSet | ImageStream
    started: Conversion | None
    checkpoint: Path | None
    notes: list[str]


def _notes(*lines: str) -> list[str]:
    """The lines that say something, each once: both splits may say the same."""
    return [line for line in dict.fromkeys(lines) if line]


def assemble(config: TrainConfig, monitor: Monitor | None = None) -> Assembly:
    """Opens the data and builds the model, as the settings say; nothing is written.

    Raises:
        InputError: bad settings or data, or a folder that already holds a run.
    """
    check(config)
    config = with_resumption_decided(config)
    if config.monitor.enabled != (monitor is not None):
        raise InputError("monitor.enabled=true and the argument monitor go together")
    check_services(config)
    if is_first_process():
        check_folder(config)
    checkpoint = _checkpoint(config)
    seed_everything(config.seed, workers=True, verbose=False)
    given, source = config, _source(config)
    config = from_run(config) if config.resume else from_source(config, source)
    train_data = open_split(config.data, "train", config.seed)
    val_data = open_split(config.data, "val")
    check_used(given, train_data.task)
    check_classes(train_data, val_data)
    config = from_images(config, len(train_data))
    check(config)
    if source is not None:
        if train_data.task != "classification":
            source = source.for_grid()
        config = _with_args(config, {**source.args, **config.model.args})
    record = make_record(config, train_data)
    # A file of coefficients may be gone when the run is resumed: run.yaml keeps what it held.
    config = _with_args(config, record.args)
    source = None if source is None else source.for_classes(record.classes)
    train_loader, val_loader = _loaders(config, record, train_data, val_data)
    check_share("limit_train_batches", config.limit_train_batches, length(train_loader))
    check_share("limit_val_batches", config.limit_val_batches, length(val_loader))
    model = _build(config, record)
    check_task(model, train_data, (config.model.name, config.data.name))
    started = None if source is None else _start(model, source, config)
    _prepare(model, config)
    if checkpoint is not None:
        _check_resumable(model, config, checkpoint)
    if monitor is not None:
        monitor.attach(model)
    make_optimizer(model, config.optim)
    module = TASKS[train_data.task].module(model, record, config)
    return Assembly(
        config,
        record,
        module,
        train_loader,
        val_loader,
        train_data,
        val_data,
        started,
        checkpoint,
        _notes(train_data.note, val_data.note, describe(given, config)),
    )


def _checkpoint(config: TrainConfig) -> Path | None:
    """What the run goes on from."""
    if not config.resume:
        return None
    path, lines = resumed_from(Path(config.out))
    for line in lines if is_first_process() else []:
        sys.stdout.write(f"{line}\n")
    return path


def make_record(config: TrainConfig, data: ImageSet | ImageStream) -> ModelRecord:
    """The record of the model that a run is to train on this data."""
    spec = preprocessing(config.data, data)
    return ModelRecord(
        architecture=config.model.name,
        args=config.model.args,
        classes=data.classes,
        **spec._asdict(),
    )


def _with_args(config: TrainConfig, args: dict[str, Any]) -> TrainConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, args=args))


def _source(config: TrainConfig) -> ViTSource | None:
    if config.resume or config.model.init_from is None:
        return None
    return read_vit(config.model.init_from)


def _build(config: TrainConfig, record: ModelRecord) -> nn.Module:
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    return build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})


def _start(model: nn.Module, source: ViTSource, config: TrainConfig) -> Conversion:
    fit = "act_init" not in config.model.args
    return init_from_vit(model, source, activation=config.model.init_activation, fit=fit)


def _tell(started: Conversion, out: Path) -> None:
    write_text(out / CONVERSION, json.dumps(started.to_dict(), indent=2) + "\n")
    sys.stdout.write(f"{started.summary()}; {out / CONVERSION} lists them\n")


def _prepare(model: Any, config: TrainConfig) -> None:
    freeze(model, config.model.freeze)
    if config.model.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.model.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()


def _check_resumable(model: nn.Module, config: TrainConfig, path: Path) -> None:
    """Checks that weights and optimiser of a checkpoint are those of the settings."""
    state = read_training_checkpoint(path)
    weights = {name.removeprefix("model."): t for name, t in state["state_dict"].items()}
    load_weights(model, weights, source=str(path))
    check_layout(model, config.optim, state)


def _loaders(
    config: TrainConfig,
    record: ModelRecord,
    train_data: ImageSet | ImageStream,
    val_data: ImageSet | ImageStream,
) -> tuple[Loader, Loader]:
    transforms = TASKS[train_data.task].transforms(record, config)
    train_data.transform, val_data.transform = transforms
    return (
        make_loader(train_data, config.data, training=True, seed=config.seed),
        make_loader(val_data, config.data, training=False),
    )


def _make_trainer(
    config: TrainConfig, monitor: Monitor | None, loader: Loader
) -> tuple[Trainer, Checkpoints, SpeedLog]:
    out, meter = Path(config.out), Meter()
    speed, interactive = SpeedLog(meter, config), is_interactive(config)
    guard = DivergenceGuard(out)
    checkpoints = Checkpoints(out, config.checkpoint, guard)
    callbacks: list[Callback] = [
        speed,
        EpochLines(speed),
        Bar(speed) if interactive else StepLines(speed),
        Limits(config),
        ExactResume(loader, config.seed),
        guard,
        checkpoints,
        RecordCoefficients(out),
    ]
    if monitor is not None:
        callbacks.append(RecordStability(monitor, out))
    trainer = make_trainer(
        **trainer_settings(config),
        limit_train_batches=config.limit_train_batches,
        limit_val_batches=config.limit_val_batches,
        log_every_n_steps=config.log_every_n_steps,
        enable_progress_bar=interactive,
        logger=local_loggers(config),
        callbacks=callbacks,
        profiler=meter,
    )
    return trainer, checkpoints, speed


def trainer_settings(config: TrainConfig) -> dict[str, Any]:
    """What every Trainer of these settings has in common: devices, arithmetic, steps."""
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
        "precision": config.precision,
        "max_epochs": config.epochs,
        "accumulate_grad_batches": config.optim.accumulate_grad_batches,
        "gradient_clip_val": config.optim.clip_grad or None,
        # PyTorch's batch norm over several processes is for GPUs alone.
        "sync_batchnorm": torch.cuda.is_available() and config.accelerator != "cpu",
    }


def _finish(
    config: TrainConfig,
    module: TaskModule,
    trainer: Trainer,
    checkpoints: Checkpoints,
    speed: SpeedLog,
) -> Summary:
    out = Path(config.out)
    trainer.strategy.barrier()
    model, record = load_model(out / BEST)
    # A run that a limit stopped in its first epoch keeps what it has, but not as the best.
    states = read_training_checkpoint(out / BEST)["callbacks"]
    best = checkpoints.best or states[checkpoints.state_key]["best"]
    summary = Summary(
        out=str(out),
        model=config.model.name,
        task=task_of(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        scores={score.name: best[score.name] for score in module.scores},
        epochs=len(module.history),
        seconds=checkpoints.seconds(),
        images_per_second=speed.total.images_per_second,
        memory_bytes=speed.peak(module.device),
        skipped=len(module.skipped),
    )
    if trainer.is_global_zero:
        try:
            write_records(out, module.history, module.skipped)
            save_model(model, record, out)
            write_text(out / SUMMARY, json.dumps(summary.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise _explained(error, config.out) from None
        except SafetensorError as error:
            raise CheckpointFailed(f"{out} cannot be written: {error}") from None
    return summary
