"""The settings of a training run, as recipes and the command line spell them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from kat.data.config import (
    AugmentConfig,
    DataConfig,
    DetectionAugmentConfig,
    SegmentationAugmentConfig,
)
from kat.errors import InputError, unknown
from kat.settings import (
    AUTO,
    Batches,
    Count,
    NonNegative,
    OrAuto,
    Positive,
    Probability,
    ProbabilityBelowOne,
    Processes,
    Seed,
    Share,
    ShareBelowOne,
)


def _exclude(wrong: object, message: str) -> None:
    if wrong:
        raise InputError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The model to train.

    Args:
        name: a model in timm's registry, e.g. kat_micro, kat_tiny_patch16_224, vit_micro; auto: the
            model of init_from, or for a ViT the KAT of the same size; without init_from, a small
            KAT for the task, and a larger one on a GPU.
        args: further arguments of the model's constructor, e.g. {num_groups: 4, patch_size: 2}.
        drop_path: rate of stochastic depth in the last block; it grows linearly over the blocks,
            from 0 in the first.
        drop: dropout rate before the classifier.
        init_from: start from a trained ViT or KAT: a .safetensors or .pth file, a model folder, a
            run, digits (a model that comes with the library), or the name of a pretrained timm
            model (short: --init-from). The weights of a KAT are kept. From a ViT, act1 starts as
            the identity and act2 as a fit to the ViT's activation, unless args has an act_init;
            args gets what the ViT needs (LayerScale, registers). The head starts anew if the
            classes differ. See docs/checkpoints.md.
        init_activation: the activation of the ViT in init_from, if its file does not name it
            (default: gelu).
        functions_from: start with the functions that a KAT of the same depth has learned, and do
            not train them: a run, a model folder, a .ckpt or .safetensors file, digits; or
            language, for MLPs without F_1 (short: --functions-from). See docs/fixed-functions.md.
        freeze: parts that are not trained, separated by commas: backbone (everything except the
            head), rationals (their coefficients), a number n (the embeddings and the first n
            blocks), or patterns of parameter names such as "blocks.*.attn.*". Frozen modules run in
            eval mode and get no gradient.
        grad_checkpointing: save memory by computing activations again in the backward pass.
        compile: run the model through torch.compile.
        channels_last: store images in the channels-last format, which suits convolutions on GPUs; a
            ViT has only one convolution, the patch embedding.

    Examples:
        >>> from kat.training import ModelConfig
        >>> ModelConfig("kat_micro", {"num_groups": 4}, drop_path=0.1).name
        'kat_micro'
    """

    name: str = "kat_micro"
    args: dict[str, Any] = field(default_factory=dict)
    drop_path: ProbabilityBelowOne = 0.0
    drop: Probability = 0.0
    init_from: str | None = None
    init_activation: str | None = None
    functions_from: str | None = None
    freeze: int | str | None = None
    grad_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False

    @field_validator("args")
    @classmethod
    def _known_arguments(cls, args: dict[str, Any]) -> dict[str, Any]:
        for name, value in args.items():
            of_data = name in ("num_classes", "in_chans")
            if of_data or value is None or (name, value) == ("global_pool", ""):
                other = "the number in the data" if of_data else "its default"  # timm drops None
                raise InputError(f"model.args.{name} is {value!r}: leave it out for {other}")
        return args


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its schedule, and the EMA of the weights.

    Args:
        name: an optimizer from timm, e.g. adamw, lamb, sgd.
        lr: peak learning rate; auto: chosen by the number of images.
        weight_decay: weight decay of all parameters except biases, norms, embeddings and rational
            coefficients.
        rational_weight_decay: weight decay of the rational coefficients; it pulls F towards zero.
        betas: decay rates of the two moments, for optimizers that have two, such as Adam.
        layer_decay: factor by which the learning rate falls from each block to the block before it:
            the head trains at lr, the last block at layer_decay times lr. 1 turns it off; auto:
            0.75 with init_from, otherwise 1.
        rational_lr_scale: factor that multiplies the learning rate of the rational coefficients.
        rational_warmup_epochs: epochs over which rational_lr_scale grows linearly from 0; auto: a
            tenth of the epochs. A warm-up as long as the run is shortened to this, too.
        clip_coefficients: clip every rational coefficient to [-c, c] after each step; 0 turns it
            off.
        warmup_epochs: epochs of linear warm-up from warmup_lr to lr; auto: a twentieth of the
            epochs. A warm-up as long as the run is shortened to this, too.
        warmup_lr: learning rate of the first step.
        schedule: how the learning rate falls after the warm-up: cosine; poly, as a power of the
            remaining share of the steps; step, by step_factor at each point of step_at.
        min_lr: final learning rate of cosine and poly.
        poly_power: exponent of poly; 1 is a straight line.
        step_at: points at which step lowers the learning rate, as shares of the run, e.g. [0.889,
            0.963].
        step_factor: factor of the learning rate at each point of step_at.
        clip_grad: maximum norm of the gradient; 0 turns clipping off.
        accumulate_grad_batches: number of batches whose gradients are summed for one step.
        ema_decay: decay of the EMA of the weights; it warms up, so that short runs can use an EMA.
            The EMA is then what is validated and saved as the best checkpoint. 0 turns it off.

    Examples:
        >>> from kat.training import OptimConfig
        >>> OptimConfig(lr=3e-3, warmup_epochs=5).schedule
        'cosine'
    """

    name: str = "adamw"
    lr: OrAuto[Positive] = 1e-3
    weight_decay: NonNegative = 0.05
    rational_weight_decay: NonNegative = 0.0
    betas: tuple[ProbabilityBelowOne, ProbabilityBelowOne] = (0.9, 0.999)
    layer_decay: OrAuto[Share] = 1.0
    rational_lr_scale: NonNegative = 1.0
    rational_warmup_epochs: OrAuto[NonNegative] = 0.0
    clip_coefficients: NonNegative = 0.0
    warmup_epochs: OrAuto[NonNegative] = 0.0
    warmup_lr: NonNegative = 1e-6
    schedule: Literal["cosine", "poly", "step"] = "cosine"
    min_lr: NonNegative = 1e-5
    poly_power: Positive = 1.0
    step_at: list[ShareBelowOne] = field(default_factory=lambda: [0.889, 0.963])
    step_factor: Share = 0.1
    clip_grad: NonNegative = 0.0
    accumulate_grad_batches: Count = 1
    ema_decay: ProbabilityBelowOne = 0.0

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        from timm.optim import get_optimizer_info, list_optimizers  # imports torch

        if self.name not in list_optimizers():
            raise unknown("optimizer", self.name, map(str, list_optimizers()))
        info = get_optimizer_info(self.name)
        lr = math.inf if self.lr == AUTO else self.lr
        warms_up = self.warmup_epochs not in (0, AUTO)
        has_two = info.has_betas and info.num_betas == 2
        _exclude(
            not has_two and self.betas != (0.9, 0.999),
            f"optim.name={self.name} does not have two betas: leave optim.betas out",
        )
        _exclude(
            self.schedule != "step" and self.min_lr > lr,
            f"optim.min_lr={self.min_lr:g} is above optim.lr={self.lr}, so that the rate would"
            " rise: give a lower one",
        )
        _exclude(
            warms_up and self.warmup_lr > lr,
            f"optim.warmup_lr={self.warmup_lr:g} is above optim.lr={self.lr}, so that the rate"
            " would begin above its peak: give a lower one",
        )
        return self


@dataclass(frozen=True)
class LossConfig:
    """The loss of a classifier.

    Args:
        class_weights: weights of the classes in the training loss: a list with one weight for each
            class, in the order of the classes; or balanced, which is n / (K n_c) for a class with
            n_c of the n training images, with K classes. null: all classes weigh the same. The
            losses of validation and evaluation are not weighted.

    Examples:
        >>> from kat.training import LossConfig, TrainConfig
        >>> TrainConfig(loss=LossConfig(class_weights="balanced")).loss.class_weights
        'balanced'
    """

    class_weights: Literal["balanced"] | list[Positive] | None = None


@dataclass(frozen=True)
class MonitorConfig:
    """The record of the GR-KAN layers during training; docs/training.md.

    Args:
        enabled: write stability.csv (short: --monitor).
        every_n_steps: steps between two records.

    Examples:
        >>> from kat.training import MonitorConfig, TrainConfig
        >>> TrainConfig(monitor=MonitorConfig(enabled=True)).monitor.every_n_steps
        50
    """

    enabled: bool = False
    every_n_steps: Count = 50


@dataclass(frozen=True)
class CheckpointConfig:
    """The times at which last.ckpt is written, other than after every epoch.

    Args:
        every_n_minutes: minutes of training between checkpoints within an epoch; null: none.
        every_n_steps: optimizer steps between checkpoints within an epoch; null: none.
    """

    every_n_minutes: Positive | None = 15.0
    every_n_steps: Count | None = None


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run.

    Args:
        out: run directory, for checkpoints, logs and the settings of the run.
        epochs: passes over the training data; auto: chosen by the number of images.
        seed: seed of the weights, the data order and the augmentation.
        precision: floating-point format of the forward and backward passes.
        accelerator: device to train on; cuda and gpu mean the same (short: --device).
        devices: number of devices on this machine; auto: all.
        num_nodes: number of machines.
        strategy: how several devices share the work: with auto or ddp each has the whole model;
            fsdp (FSDP2) shards weights, gradients and optimizer state.
        limit_train_batches: train on at most this many batches in each epoch; a number with a
            decimal point, e.g. 0.1, is a share of them.
        limit_val_batches: validate on at most this many batches, of images that are evenly spaced
            in the split; a number with a decimal point is a share of the images.
        limit_epochs: stop after this epoch, counted from the start of the run. The learning rate
            still follows the schedule of all epochs, and a resumed run continues it. The same holds
            for max_steps and max_time.
        early_stopping: stop after this many epochs in a row (patience) without a new best epoch.
            The best epoch has the highest first metric of the task (top-1, box AP, mIoU); a tie
            goes to the lower validation loss. null: train all epochs.
        max_steps: stop after this many optimizer steps, and validate.
        max_time: stop after this time, HH:MM:SS or DD:HH:MM:SS, and validate. The clock of a
            resumed run starts at 0.
        log_every_n_steps: steps between two rows of the logs.
        loggers: loggers besides CSV and TensorBoard: wandb, mlflow, or both.
        progress: show a progress bar in a terminal; false: print lines, as to a file.
        resume: resume the run in out, with its settings where no others are given; auto: resume it
            if it exists, otherwise start it.
        accept_changed_data: resume even if classes, files or labels of the data have changed since
            the run began.
        overwrite: delete the run in out before training; other files in out are kept.

    Examples:
        >>> from kat.data import DataConfig
        >>> from kat.training import ModelConfig, OptimConfig, TrainConfig
        >>> config = TrainConfig(
        ...     out="runs/mine",
        ...     epochs=20,
        ...     data=DataConfig("folder:photos", image_size=64),
        ...     model=ModelConfig("kat_micro_patch8_64"),
        ...     optim=OptimConfig(lr=2e-3),
        ... )
    """

    out: str = "runs/latest"
    epochs: OrAuto[Count] = 10
    seed: Seed = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto"
    devices: Processes | Literal["auto"] = "auto"
    num_nodes: Processes = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    limit_train_batches: Batches | None = None
    limit_val_batches: Batches | None = None
    limit_epochs: Count | None = None
    early_stopping: Count | None = None
    max_steps: Count | None = None
    max_time: str | None = None
    log_every_n_steps: Count = 50
    loggers: list[Literal["wandb", "mlflow"]] = field(default_factory=list)
    progress: bool = True
    resume: bool | Literal["auto"] = False
    accept_changed_data: bool = False
    overwrite: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detection: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    segmentation: SegmentationAugmentConfig = field(default_factory=SegmentationAugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    @field_validator("max_time")
    @classmethod
    def _validate_max_time(cls, time: str | None) -> str | None:
        if time is not None:
            parse_time(time)
        return time

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        sharded = self.strategy == "fsdp"
        _exclude(self.resume and self.overwrite, "resume and overwrite exclude each other")
        _exclude(
            self.data.validate_on == "holdout" and self.data.holdout == 0,
            "data.validate_on=holdout needs a share to hold out: give data.holdout, e.g. 0.1",
        )
        _exclude(
            self.model.init_from and self.model.functions_from,
            "model.init_from and model.functions_from exclude each other: a trained model has its"
            " own functions",
        )
        _exclude(
            self.monitor.enabled and self.model.compile,
            "monitor.enabled cannot see inside a compiled model: model.compile=false",
        )
        _exclude(
            sharded and self.monitor.enabled,
            "monitor.enabled needs whole weights, and strategy=fsdp shards them",
        )
        _exclude(
            sharded and self.precision == "16-mixed",
            "precision=16-mixed does not work with strategy=fsdp: take bf16-mixed",
        )
        _exclude(
            sharded and self.model.channels_last,
            "model.channels_last does not work with strategy=fsdp: take ddp",
        )
        return self


def parse_time(text: str) -> float:
    """Return the seconds of ``HH:MM:SS``, or of ``DD:HH:MM:SS``."""
    if not re.fullmatch(r"(\d+:)?\d+:[0-5]?\d:[0-5]?\d", text) or not re.search("[1-9]", text):
        raise InputError(f"max_time must be HH:MM:SS or DD:HH:MM:SS and above 0, got {text}")
    seconds = 0.0
    for part, unit in zip(reversed(text.split(":")), (1, 60, 3600, 86400), strict=False):
        seconds += int(part) * unit
    return seconds
