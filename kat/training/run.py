"""One training run, from settings to a folder of results."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from kat.data import (
    Batch,
    ImageSet,
    ImageStream,
    check_classes,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
    train_transform,
)
from kat.errors import InputError
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
from kat.training.automatic import describe, from_images, from_run, from_source
from kat.training.callbacks import EmaWeights, EpochLines, Monitor, RecordStability, checkpoints
from kat.training.classification import Classifier
from kat.training.config import TrainConfig, check
from kat.training.divergence import DivergenceGuard
from kat.training.folder import (
    BEST,
    CONVERSION,
    HISTORY,
    SUMMARY,
    check_folder,
    prepare_folder,
    resumed_from,
)
from kat.training.frozen import freeze
from kat.training.history import read_history, write_history
from kat.training.lightning_setup import is_first_process, make_trainer, quiet
from kat.training.optimizer import check_layout, make_optimizer


@dataclass
class Summary:
    """What came out of a run.

    Args:
        out: the run's folder.
        model: its name.
        parameters: how many it has.
        top1: top-1 of the kept weights on the validation split, in per cent.
        top5: top-5 of the same weights.
        epochs: how many were trained.
        seconds: wall time of training and validation, resumptions included.
        skipped: files that were left out: unreadable images, and files that are no images.
    """

    out: str
    model: str
    parameters: int
    top1: float
    top5: float
    epochs: int
    seconds: float
    skipped: int


def train(config: TrainConfig, monitor: Monitor | None = None) -> Summary:
    """Trains a model and writes its folder.

    The folder holds run.yaml (the resolved settings), best.ckpt and last.ckpt, the best weights
    as model.safetensors with config.json, history.csv (one row an epoch), summary.json, and the
    logs of every step in csv/ and tensorboard/; where the run starts from a ViT, conversion.json
    says what was carried over. It is not touched before everything that can be
    checked has been.

    Args:
        config: the settings.
        monitor: records the GR-KAN layers in stability.csv, where ``config.monitor.enabled`` asks
            for it: a ``kat.analysis.StabilityMonitor``.

    Raises:
        InputError: bad settings or data, or a folder that already holds a run.
        TrainingDiverged: loss, gradient or the state of training are not finite; divergence.json
            and the newest finite state are then in the folder.
    """
    check(config)
    if config.monitor.enabled != (monitor is not None):
        raise InputError("monitor.enabled=true and the argument monitor go together")
    if is_first_process():
        check_folder(config)
    seed_everything(config.seed, workers=True, verbose=False)
    given, source = config, _source(config)
    config = from_run(config) if config.resume else from_source(config, source)
    train_data = open_split(config.data, "train", config.seed)
    val_data = open_split(config.data, "val")
    check_classes(train_data, val_data)
    config = from_images(config, len(train_data))
    check(config)
    if source is not None:
        config = _with_args(config, {**source.args, **config.model.args})
    record = make_record(config, train_data)
    # A file of coefficients may be gone when the run is resumed: run.yaml keeps what it held.
    config = _with_args(config, record.args)
    source = None if source is None else source.for_classes(record.classes)
    train_loader, val_loader = _loaders(config, record, train_data, val_data)
    model = _build(config, record)
    started = None if source is None else _start(model, source, config)
    _prepare(model, config)
    if config.resume:
        checkpoint = read_training_checkpoint(resumed_from(Path(config.out)))
        check_layout(model, config.optim, checkpoint)
    if monitor is not None:
        monitor.attach(model)
    make_optimizer(model, config.optim)
    classifier = Classifier(model, record, config)
    with quiet():
        trainer = _make_trainer(config, monitor)
        before = _seconds_before(config)
        if is_first_process():
            prepare_folder(config)
            _say(val_data.note, describe(given, config))
            if started is not None:
                _tell(started, Path(config.out))
        classifier.skip([*train_data.ignored, *val_data.ignored], "it is not named as an image")
        start = time.perf_counter()
        trainer.fit(
            classifier,
            train_loader,
            val_loader,
            ckpt_path=resumed_from(Path(config.out)) if config.resume else None,
            weights_only=True,
        )
        seconds = before + time.perf_counter() - start
    return _finish(config, classifier, trainer, seconds)


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
    model = build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})
    if config.resume:
        _check_resumable(model, resumed_from(Path(config.out)))
    return model


def _start(model: nn.Module, source: ViTSource, config: TrainConfig) -> Conversion:
    fit = "act_init" not in config.model.args
    return init_from_vit(model, source, activation=config.model.init_activation, fit=fit)


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines if line))


def _tell(started: Conversion, out: Path) -> None:
    write_text(out / CONVERSION, json.dumps(started.to_dict(), indent=2) + "\n")
    sys.stdout.write(f"{started.summary()}; {out / CONVERSION} lists them\n")


def _prepare(model: Any, config: TrainConfig) -> None:
    freeze(model, config.model.freeze)
    if config.model.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.model.compile:
        model.compile()


def _check_resumable(model: nn.Module, path: Path) -> None:
    weights = read_training_checkpoint(path)["state_dict"]
    weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    load_weights(model, weights, source=str(path))


def _loaders(
    config: TrainConfig,
    record: ModelRecord,
    train_data: ImageSet | ImageStream,
    val_data: ImageSet | ImageStream,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    train_data.transform = train_transform(record, config.augment)
    val_data.transform = eval_transform(record)
    return (
        make_loader(train_data, config.data, training=True, seed=config.seed),
        make_loader(val_data, config.data, training=False),
    )


def _make_trainer(config: TrainConfig, monitor: Monitor | None) -> Trainer:
    callbacks: list[Callback] = [*checkpoints(Path(config.out)), EpochLines()]
    if config.optim.ema_decay > 0:
        callbacks.append(EmaWeights(config.optim.ema_decay))
    if monitor is not None:
        callbacks.append(RecordStability(monitor, Path(config.out)))
    callbacks.append(DivergenceGuard(Path(config.out)))  # sees the average that is validated
    if config.progress:
        callbacks.append(RichProgressBar())
    return make_trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision=config.precision,
        max_epochs=config.epochs,
        accumulate_grad_batches=config.optim.accumulate,
        gradient_clip_val=config.optim.clip_grad or None,
        limit_train_batches=config.limit_train_batches,
        limit_val_batches=config.limit_val_batches,
        log_every_n_steps=config.log_every,
        enable_progress_bar=config.progress,
        logger=[
            CSVLogger(config.out, name="csv"),
            TensorBoardLogger(config.out, name="tensorboard"),
        ],
        callbacks=callbacks,
    )


def _seconds_before(config: TrainConfig) -> float:
    """What a finished run took that is now resumed."""
    path = Path(config.out) / SUMMARY
    if not (config.resume and path.is_file()):
        return 0.0
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _finish(
    config: TrainConfig, classifier: Classifier, trainer: Trainer, seconds: float
) -> Summary:
    out = Path(config.out)
    trainer.strategy.barrier()
    model, record = load_model(out / BEST)
    best_epoch = read_training_checkpoint(out / BEST)["epoch"] + 1
    history = read_history(out)
    best = next(row for row in history if row["epoch"] == best_epoch)
    summary = Summary(
        out=str(out),
        model=config.model.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        top1=best["top1"],
        top5=best["top5"],
        epochs=len(history),
        seconds=seconds,
        skipped=len(classifier.skipped),
    )
    if trainer.is_global_zero:
        save_model(model, record, out)
        write_history(history, out / HISTORY)
        write_text(out / SUMMARY, json.dumps(dataclasses.asdict(summary), indent=2) + "\n")
    return summary
