"""The settings of a training run, as recipes and the command line spell them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from timm.optim import list_optimizers

from kat.data import AUTO, AugmentConfig, DataConfig, OrAuto, check_data, is_stream
from kat.data.dense import (
    DetectionAugmentConfig,
    SegmentationAugmentConfig,
    check_detection,
    check_segmentation,
)
from kat.errors import InputError, unknown


@dataclass
class ModelConfig:
    """The model to train.

    Args:
        name: any model of timm's registry, e.g. kat_micro, kat_tiny_patch16_224, vit_micro; auto:
            that of init_from, or the KAT of its size where that is a ViT.
        args: further arguments of its constructor, e.g. {num_groups: 4, patch_size: 2}.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
        drop: dropout rate before the classifier.
        init_from: start from a trained ViT: a .safetensors, .pth or .npz file, the folder of a
            model or a run, or the name of a pretrained timm model; --init-from for short.
            Everything but the rationals (and a head of other classes) is carried over, act2 is
            fitted to the ViT's activation unless args has an act_init, and what the ViT needs
            (LayerScale, registers) goes into args; docs/checkpoints.md. From a KAT, the rationals
            are carried over too.
        init_activation: the activation of the ViT in init_from, where its file does not say; gelu
            by default.
        freeze: what is not trained, separated by commas: backbone (all but the head), rationals
            (their coefficients), a number n (the embeddings and the first n blocks), or patterns
            of parameter names such as "blocks.*.attn.*". It runs in eval mode and has no gradient.
        grad_checkpointing: recompute activations in the backward pass, to save memory.
        compile: run the model through torch.compile.
        channels_last: keep images with their channels last in memory, as convolutions on GPUs
            like it; of a ViT that is the patch embedding alone.
    """

    name: str = "kat_micro"
    args: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.0
    drop: float = 0.0
    init_from: str | None = None
    init_activation: str | None = None
    freeze: int | str | None = None
    grad_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False


@dataclass
class OptimConfig:
    """The optimizer, its schedule, and the average of the weights.

    Args:
        name: an optimizer of timm's, e.g. adamw, lamb, sgd.
        lr: the peak learning rate; auto: by the number of images.
        weight_decay: for all but biases, norms, embeddings and rational coefficients.
        betas: of Adam-like optimizers.
        layer_decay: factor of the learning rate from each block to the one before it; the head
            has lr, the last block layer_decay times that; 1 is none.
        rational_lr_scale: factor of the learning rate of the rational coefficients.
        rational_warmup_epochs: epochs in which that factor grows linearly from 0; auto: by the
            number of images.
        clip_coefficients: after each step every rational coefficient is put into [-c, c]; 0 does
            not clip.
        warmup_epochs: epochs of linear warm-up from warmup_lr to lr; auto: by the number of
            images.
        warmup_lr: the learning rate of the first step.
        schedule: how the learning rate falls after the warm-up: cosine; poly, a power of what is
            left; step, at the shares step_at of all steps.
        min_lr: where cosine and poly end.
        poly_power: of poly: 1 falls linearly.
        step_at: of step: shares of the run, e.g. [0.889, 0.963].
        step_factor: of step: what the learning rate is multiplied by at each of them.
        clip_grad: largest norm of the gradient; 0 does not clip.
        accumulate_grad_batches: batches whose gradients are summed for one step.
        ema_decay: decay of the moving average of the weights that is validated and kept as the
            best; 0 keeps none. It warms up, so that short runs can use it too.
    """

    name: str = "adamw"
    lr: OrAuto[float] = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    rational_lr_scale: float = 1.0
    rational_warmup_epochs: OrAuto[float] = 0.0
    clip_coefficients: float = 0.0
    warmup_epochs: OrAuto[float] = 0.0
    warmup_lr: float = 1e-6
    schedule: Literal["cosine", "poly", "step"] = "cosine"
    min_lr: float = 1e-5
    poly_power: float = 1.0
    step_at: list[float] = field(default_factory=lambda: [0.889, 0.963])
    step_factor: float = 0.1
    clip_grad: float = 0.0
    accumulate_grad_batches: int = 1
    ema_decay: float = 0.0


@dataclass
class MonitorConfig:
    """What is recorded of the GR-KAN layers; docs/stability.md.

    Args:
        enabled: write stability.csv, TensorBoard scalars and stability.html.
        every_n_steps: steps between two records.
    """

    enabled: bool = False
    every_n_steps: int = 50


@dataclass
class CheckpointConfig:
    """When last.ckpt is written, beside after every epoch.

    Args:
        every_n_minutes: minutes of training between two checkpoints within an epoch; null:
            none there.
        every_n_steps: the same in steps of the optimizer.
    """

    every_n_minutes: float | None = 15.0
    every_n_steps: int | None = None


@dataclass
class TrainConfig:
    """Everything about one run.

    Args:
        out: folder for checkpoints, logs and the resolved configuration.
        epochs: passes over the training data; auto: by the number of images.
        seed: of weights, data order and augmentation.
        precision: what the forward and backward passes are computed in.
        accelerator: auto, cpu, gpu, mps.
        devices: how many of them, or auto.
        num_nodes: machines.
        strategy: how several devices share the work: auto or ddp (each has the whole model), or
            fsdp (each has a share of weights, gradients and moments: FSDP2).
        limit_train_batches: train on no more than this many batches an epoch; a share of them if
            it has a decimal point, e.g. 0.1.
        limit_val_batches: validate on no more than this many batches, or a share of them.
        limit_epochs: stop after this epoch; the learning rate follows the schedule of all epochs,
            and a resumed run goes on with it, as with max_steps and max_time.
        max_steps: stop when the optimizer has made this many steps, and validate.
        max_time: stop after so much time of this call, as HH:MM:SS or DD:HH:MM:SS, and validate.
        log_every_n_steps: steps between two lines of the logs.
        loggers: where to log beside CSV and TensorBoard: wandb, mlflow, or both.
        progress: show a progress bar in a terminal; otherwise lines show how far a run is.
        resume: go on with the run that is in out, by its own settings unless others are given;
            auto: if there is one, else start it.
        overwrite: throw away the run that is in out; other files there are left alone.
    """

    out: str = "runs/latest"
    epochs: OrAuto[int] = 10
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_epochs: int | None = None
    max_steps: int | None = None
    max_time: str | None = None
    log_every_n_steps: int = 50
    loggers: list[Literal["wandb", "mlflow"]] = field(default_factory=list)
    progress: bool = True
    resume: bool | Literal["auto"] = False
    overwrite: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detection: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    segmentation: SegmentationAugmentConfig = field(default_factory=SegmentationAugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


_AT_LEAST_ONE = (
    "epochs",
    "num_nodes",
    "log_every_n_steps",
    "optim.accumulate_grad_batches",
    "monitor.every_n_steps",
)
_NOT_NEGATIVE = (
    "augment.mixup",
    "augment.cutmix",
    "augment.color_jitter",
    "optim.weight_decay",
    "optim.warmup_epochs",
    "optim.rational_warmup_epochs",
    "optim.rational_lr_scale",
    "optim.clip_coefficients",
    "optim.warmup_lr",
    "optim.min_lr",
    "optim.clip_grad",
)
_PROBABILITIES = (
    "model.drop",
    "augment.hflip",
    "augment.random_erasing",
    "augment.mixup_prob",
    "augment.mixup_switch_prob",
    "augment.label_smoothing",
)
_BELOW_ONE = ("model.drop_path", "optim.ema_decay")
_STAND_INS: dict[str, Any] = {
    "model.name": "kat_micro",
    "data.image_size": None,
    "data.channels": None,
    "data.mean": None,
    "data.std": None,
    "data.interpolation": "bicubic",
    "data.crop_pct": 1.0,
    "epochs": 10**9,
    "data.batch_size": 2,
    "optim.lr": 1e-3,
    "optim.warmup_epochs": 0.0,
    "optim.rational_warmup_epochs": 0.0,
    "augment.mixup": 0.0,
}
"""The settings that may be auto, and what stands for that in checks: nothing is at odds with it."""
_RESERVED = ("num_classes", "in_chans")


def check(config: TrainConfig) -> None:
    """Checks that every number is in its range and that settings go together.

    Settings that are auto are taken to be right.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    if config.data.batch_size == AUTO and is_stream(config.data.name):
        raise InputError(
            "data.batch_size=auto needs images that can be counted first: give a number"
        )
    config = with_settings(config, {name: _STAND_INS[name] for name in automatic(config)})
    check_data(config.data)
    check_detection(config.detection)
    check_segmentation(config.segmentation)
    ranges: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
        (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (("optim.lr", "optim.poly_power"), lambda value: 0 < value < math.inf, "positive"),
        (
            ("optim.layer_decay", "optim.step_factor"),
            lambda value: 0 < value <= 1,
            "above 0 and at most 1",
        ),
        (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "at least 0"),
        (_PROBABILITIES, lambda value: 0 <= value <= 1, "between 0 and 1"),
        (_BELOW_ONE, lambda value: 0 <= value < 1, "at least 0 and below 1"),
        (("seed",), lambda value: 0 <= value < 2**32, "at least 0 and below 2^32"),
    )
    for names, valid, wanted in ranges:
        for name in names:
            value = setting(config, name)
            _require(valid(value), name, value, wanted)
    for name in ("limit_train_batches", "limit_val_batches"):
        value = getattr(config, name)
        fits = 0 < value <= 1 if isinstance(value, float) else value is None or value >= 1
        _require(fits, name, value, "at least 1 batch, or a share above 0.0 and at most 1.0")
    for name in ("limit_epochs", "max_steps", "checkpoint.every_n_steps"):
        value = setting(config, name)
        _require(value is None or value >= 1, name, value, "at least 1")
    minutes = config.checkpoint.every_n_minutes
    _require(minutes is None or minutes > 0, "checkpoint.every_n_minutes", minutes, "positive")
    if config.max_time is not None:
        parse_time(config.max_time)
    _check_pairs(config)
    _check_combinations(config)


def _check_pairs(config: TrainConfig) -> None:
    low, high = config.augment.scale
    _require(0 < low <= high <= 1, "augment.scale", [low, high], "0 < low <= high <= 1")
    low, high = config.augment.ratio
    _require(0 < low <= high < math.inf, "augment.ratio", [low, high], "0 < low <= high")
    shares = config.optim.step_at
    _require(all(0 < share < 1 for share in shares), "optim.step_at", shares, "between 0 and 1")
    betas = list(config.optim.betas)
    _require(all(0 <= beta < 1 for beta in betas), "optim.betas", betas, "at least 0 and below 1")


def _check_combinations(config: TrainConfig) -> None:
    if config.optim.name not in list_optimizers():
        raise unknown("optimizer", config.optim.name, map(str, list_optimizers()))
    for name in ("optim.warmup_epochs", "optim.rational_warmup_epochs"):
        epochs = setting(config, name)
        if epochs >= config.epochs:
            raise InputError(f"{name}={epochs} must be less than epochs={config.epochs}")
    if config.data.batch_size < 2 and max(config.augment.mixup, config.augment.cutmix) > 0:
        raise InputError("data.batch_size must be at least 2 with mixup or cutmix")
    if not isinstance(config.model.args, dict):
        raise InputError(f"model.args must be a mapping, got {config.model.args!r}")
    for name, value in config.model.args.items():
        if value is None:  # timm leaves such arguments out, without a word
            raise InputError(f"model.args.{name} is null: leave it out for its default")
    for name in _RESERVED:
        if name in config.model.args:
            raise InputError(f"model.args may not set {name}: it comes from the data")
    if config.monitor.enabled and config.model.compile:
        raise InputError("monitor.enabled sees nothing of a compiled model: model.compile=false")
    if config.monitor.enabled and config.strategy == "fsdp":
        raise InputError("monitor.enabled needs whole weights, and strategy=fsdp shards them")
    if config.resume and config.overwrite:
        raise InputError("resume and overwrite exclude each other")


def parse_time(text: str) -> float:
    """The seconds of ``HH:MM:SS``, or of ``DD:HH:MM:SS``.

    Raises:
        InputError: it is neither, or no time at all.
    """
    if not re.fullmatch(r"(\d+:)?\d+:[0-5]?\d:[0-5]?\d", text) or not re.search("[1-9]", text):
        raise InputError(f"max_time must be HH:MM:SS or DD:HH:MM:SS and above 0, got {text}")
    seconds, minutes, hours, days = [*map(int, reversed(text.split(":"))), 0][:4]
    return float(seconds + 60 * minutes + 3600 * hours + 86400 * days)


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise InputError(f"{name} must be {wanted}, got {value}")


def setting(config: Any, name: str) -> Any:
    """The value of a setting by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def with_settings(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The settings with other values for those of these dotted names."""
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section:
            key, value = section, replace(getattr(config, section), **{key: value})
        config = replace(config, **{key: value})
    return config


def automatic(config: TrainConfig) -> list[str]:
    """The dotted names of the settings that are still auto."""
    return [name for name in _STAND_INS if setting(config, name) == AUTO]
