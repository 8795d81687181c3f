"""One training run, from settings to a folder of results; and the evaluation of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from kat.data import (
    Batch,
    DataConfig,
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
from kat.models import ModelRecord, build_model, init_from_vit, load_model, save_model
from kat.training.callbacks import EmaWeights, EpochLines
from kat.training.classification import Classifier
from kat.training.config import TrainConfig, check
from kat.training.history import read_history, write_history

RUN_CONFIG, SUMMARY, HISTORY = "run.yaml", "summary.json", "history.csv"


@dataclass
class Summary:
    """What came out of a run.

    Args:
        out: the run's folder.
        model: its name.
        parameters: how many it has.
        top1: the best top-1 on the validation split, in per cent.
        top5: the top-5 of the same epoch.
        epochs: how many were trained.
        seconds: wall time of training and validation.
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


def train(config: TrainConfig) -> Summary:
    """Trains a model and writes its folder.

    The folder holds run.yaml (the resolved settings), best.ckpt and last.ckpt, the best weights
    as model.safetensors with config.json, history.csv (one row an epoch), summary.json, and the
    logs of every step in csv/ and tensorboard/.

    Raises:
        InputError: bad settings or data, or a folder that already holds a run.
        TrainingDiverged: the loss is not finite.
    """
    check(config)
    out = Path(config.out)
    _check_folder(config, out)
    seed_everything(config.seed, workers=True, verbose=False)
    train_data = open_split(config.data, "train")
    val_data = open_split(config.data, "val")
    check_classes(train_data, val_data)
    record = make_record(config, train_data)
    train_loader, val_loader = _loaders(config, record, train_data, val_data)
    model = _make_model(config, record)
    classifier = Classifier(model, record, config)
    classifier.skip([*train_data.ignored, *val_data.ignored], "it is not named as an image")
    with _quiet():
        trainer = _make_trainer(config, out)
        _prepare_folder(config, out)
        start = time.perf_counter()
        trainer.fit(
            classifier,
            train_loader,
            val_loader,
            ckpt_path=out / "last.ckpt" if config.resume else None,
            weights_only=True,
        )
        seconds = time.perf_counter() - start
    return _finish(config, classifier, trainer, seconds)


def evaluate(path: Path, data: DataConfig, *, progress: bool = True) -> dict[str, float]:
    """Top-1, top-5 (per cent) and loss of a stored model on the validation split of a data set.

    The model's own preprocessing is used; of ``data`` only what says where the images are.

    Raises:
        InputError: no model at path, or classes that are not those of the data.
    """
    model, record = load_model(path)
    images = open_split(data, "val")
    if images.channels != record.input_size[0] or len(images.classes) != len(record.classes):
        raise InputError(
            f"the model takes {record.input_size[0]} channels and knows {len(record.classes)}"
            f" classes, but {data.name!r} has {images.channels} and {len(images.classes)}"
        )
    _check_class_names(record, images)
    images.transform = eval_transform(record)
    config = TrainConfig(data=data)
    classifier = Classifier(model, record, config)
    classifier.skip(images.ignored, "it is not named as an image")
    with _quiet():
        trainer = Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar()] if progress else [],
        )
        (metrics,) = trainer.validate(
            classifier, make_loader(images, data, training=False), verbose=False
        )
    return {
        "top1": metrics["val/top1"],
        "top5": metrics["val/top5"],
        "loss": metrics["val/loss"],
        "images": len(images) - len(classifier.skipped - set(images.ignored)),
        "skipped": len(classifier.skipped),
    }


def _check_class_names(record: ModelRecord, images: ImageSet | ImageStream) -> None:
    """Classes in another order give answers near chance, without any other sign of it."""
    for index, (ours, theirs) in enumerate(zip(record.classes, images.classes, strict=True)):
        if ours != theirs and ours != str(index) and theirs != str(index):
            raise InputError(
                f"class {index} is {ours!r} to the model and {theirs!r} in the data; the folders"
                " must have the names that the model was trained with"
            )


def make_record(config: TrainConfig, data: ImageSet | ImageStream) -> ModelRecord:
    """The record of the model that a run is to train on this data."""
    spec = preprocessing(config.data, data)
    return ModelRecord(
        architecture=config.model.name,
        args=config.model.args,
        classes=data.classes,
        **spec._asdict(),
    )


def _make_model(config: TrainConfig, record: ModelRecord) -> nn.Module:
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    model: Any = build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})
    if config.model.init_from is not None:
        init_from_vit(model, config.model.init_from)
    if config.model.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if config.model.compile:
        model.compile()
    return model


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


def _check_folder(config: TrainConfig, out: Path) -> None:
    """Refuses to touch a folder that is not a run's, and a run's that nobody gave up."""
    if config.resume and not (out / "last.ckpt").is_file():
        raise InputError(f"{out} holds no run to resume: there is no last.ckpt")
    holds_run = (out / RUN_CONFIG).exists()
    if out.exists() and not holds_run and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not the folder of a run; give another --out")
    if holds_run and not config.overwrite and not config.resume:
        raise InputError(
            f"{out} already holds a run; give --resume true, --overwrite true, or another --out"
        )


def _prepare_folder(config: TrainConfig, out: Path) -> None:
    if config.overwrite and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RUN_CONFIG, yaml.safe_dump(_plain(dataclasses.asdict(config))))


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe types."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name, then gives it its own."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _make_trainer(config: TrainConfig, out: Path) -> Trainer:
    best = ModelCheckpoint(
        dirpath=out,
        filename="best",
        monitor="val/top1",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [best, EpochLines()]
    if config.optim.ema_decay > 0:
        callbacks.append(EmaWeights(config.optim.ema_decay))
    if config.progress:
        callbacks.append(RichProgressBar())
    settings: dict[str, Any] = {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.nodes,
        "strategy": config.strategy,
        "precision": config.precision,
        "max_epochs": config.epochs,
        "accumulate_grad_batches": config.optim.accumulate,
        "gradient_clip_val": config.optim.clip_grad or None,
        "limit_train_batches": config.limit_train_batches,
        "limit_val_batches": config.limit_val_batches,
        "log_every_n_steps": config.log_every,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": config.progress,
        "enable_model_summary": False,
        "logger": [
            CSVLogger(out, name="csv"),
            TensorBoardLogger(out, name="tensorboard"),
        ],
        "callbacks": callbacks,
    }
    try:
        return Trainer(**settings)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the run cannot be set up: {' '.join(str(error).split())}") from None


def _finish(
    config: TrainConfig, classifier: Classifier, trainer: Trainer, seconds: float
) -> Summary:
    out = Path(config.out)
    model, record = load_model(out / "best.ckpt")
    history = read_history(out)
    best = max(history, key=lambda row: row["top1"])
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Lightning's advice and advertisements, which do not apply here, and nothing else."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*number of training batches.*smaller than the logging interval.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
            "Checkpoint directory .* exists and is not empty.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        torch.set_float32_matmul_precision("high")
        yield
