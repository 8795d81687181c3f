"""Random settings of a training run, drawn from the whole configuration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path

from examples.items import make_items
from kat.training import TrainConfig
from kat.training.tasks.registry import TASKS
from tests.data.sources.test_table import rows_of, write_table
from tests.images import picture, samples, write_fashion_mnist, write_folder, write_tar

SHARE = 0.35
"""Of the settings, how many are not left at their defaults."""
CHOICES: dict[str, tuple[object, ...]] = {
    "epochs": (1, 3),
    "seed": (1, 2**32 - 1),
    "precision": ("bf16-mixed", "16-mixed", "64-true"),
    "strategy": ("ddp", "fsdp"),
    "limit_train_batches": (3, 0.03),
    "limit_val_batches": (1, 1.0),
    "limit_epochs": (2,),
    "early_stopping": (1,),
    "max_steps": (3,),
    "max_time": ("01:00:00",),
    "log_every_n_steps": (1,),
    "model.drop_path": (0.2,),
    "model.drop": (0.2,),
    "model.freeze": (1, "rationals", "backbone", "*attn*"),
    "model.grad_checkpointing": ("true",),
    "model.channels_last": ("true",),
    "data.image_size": (16, 32),
    "data.channels": (1, 3),
    "data.batch_size": (5, "auto"),
    "data.num_workers": (1, 2),
    "data.bad_images": ("fail",),
    "data.exif": ("ignore",),
    "data.bad_annotations": ("skip",),
    "data.interpolation": ("bilinear", "lanczos"),
    "data.crop_pct": (0.9,),
    "augment.scale": ("[0.5, 1.0]",),
    "augment.ratio": ("[0.75, 1.33]",),
    "augment.interpolation": ("random", "bilinear", "nearest", "lanczos"),
    "augment.hflip": (0.5,),
    "augment.color_jitter": (0.4,),
    "augment.auto_augment": ("rand-m9-mstd0.5", "augmix-m3-w2", "original"),
    "augment.random_erasing": (0.5,),
    "augment.mixup": (0.8, "auto"),
    "augment.cutmix": (1.0,),
    "augment.mixup_prob": (0.5,),
    "augment.mixup_switch_prob": (0.2,),
    "augment.label_smoothing": (0.1,),
    "detection.scale": ("[0.5, 1.5]",),
    "detection.hflip": (0.0,),
    "detection.min_side": (4.0,),
    "segmentation.crop": (32,),
    "segmentation.scale": ("[0.9, 1.1]",),
    "segmentation.max_class_share": (0.95,),
    "segmentation.hflip": (0.0,),
    "segmentation.distortion": (0.0,),
    "loss.class_weights": ("balanced",),
    "optim.lr": (1e-4, "auto"),
    "optim.weight_decay": (0.0,),
    "optim.betas": ("[0.8, 0.95]",),
    "optim.layer_decay": (0.7,),
    "optim.rational_lr_scale": (0.1,),
    "optim.rational_weight_decay": (0.01,),
    "optim.rational_warmup_epochs": (0.6, "auto"),
    "optim.clip_coefficients": (20.0,),
    "optim.warmup_epochs": (0.5, "auto"),
    "optim.warmup_lr": (1e-4,),
    "optim.schedule": ("poly", "step"),
    "optim.min_lr": (0.0,),
    "optim.poly_power": (0.9,),
    "optim.step_at": ("[0.3, 0.6]",),
    "optim.step_factor": (0.5,),
    "optim.clip_grad": (0.5,),
    "optim.accumulate_grad_batches": (2, 3),
    "optim.ema_decay": (0.9, 0.999),
    "monitor.enabled": ("true",),
    "monitor.every_n_steps": (1,),
    "checkpoint.every_n_minutes": ("null", 1e-6),
}
"""The values of each setting beside its default."""
_TINY = '"depth": 4, "embed_dim": 16, "num_heads": 2, "global_blocks": [0], "channels": 16'
MODELS = {
    "classification": {
        "kat_micro": "depth: 2",
        "kat_glu_micro": "depth: 2",
        "vit_micro": "depth: 2",
        "vit_kan_micro": "depth: 2",
        "vit_swiglu_micro": "depth: 2",
        "test_resnet": "",
    },
    "detection": {"kat_det_micro": _TINY, "vit_det_micro": _TINY},
    "segmentation": {"kat_upernet_micro": f"{_TINY}, norm: layer", "vit_upernet_micro": _TINY},
}
OF_RATIONALS = ("model.freeze", "monitor.enabled")
HOLD_OUT = ("digits", "fashion_mnist", "folder", "csv")
"""The data of which a part of the training split can be held out."""
DRAWN_APART = {
    "optim.name",
    "model.name",
    "model.args",
    "data.name",
    "data.boxes_only",
    "data.validate_on",
    "checkpoint.every_n_steps",
}
NOT_DRAWN = {
    "out", "resume", "overwrite", "accept_changed_data",  # the test's own
    "progress", "loggers",  # show numbers, and change none
    "accelerator", "devices", "num_nodes",  # of the machine
    "model.init_from", "model.init_activation", "model.functions_from",  # where training begins
    "model.compile",  # takes minutes
    "data.mean", "data.std",  # numbers of as many channels as the data has
    "data.root", "data.train_split", "data.val_split", "data.download", "data.image_key",
    "data.label_key", "data.num_classes", "data.holdout",  # which data it is
}  # fmt: skip


def setting_names(settings: type = TrainConfig, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for field in fields(settings):
        nested = field.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from setting_names(nested, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def write_data(root: Path) -> dict[str, list[tuple[str, ...]]]:
    """Small data of each kind: the options that name it, by task."""
    write_folder(root / "folder", classes=2, train=12, val=4)
    rows = rows_of(root / "folder", whole=False)
    table = write_table(root / "folder" / "labels.csv", rows)
    (root / "mnist").mkdir(parents=True)
    write_fashion_mnist(root / "mnist", train=40, val=10)
    images = [picture(number) for number in range(24)]
    for split in ("train", "val"):
        files = [(f"n{number % 2}/{number}.jpg", image) for number, image in enumerate(images)]
        write_tar(root / "tar" / f"{split}.tar", files)
        write_tar(root / "shards" / f"{split}-0.tar", samples(images))
    make_items(root / "items", source="digits", images=8, val_images=4, size=64)
    classification = ("digits", f"fashion_mnist:{root / 'mnist'}", f"folder:{root / 'folder'}",
                      f"csv:{table}", f"tar:{root / 'tar'}", f"wds:{root / 'shards'}")  # fmt: skip
    return {
        "classification": [("--data", name) for name in classification],
        "detection": [("--data", f"coco:{root / 'items'}")],
        "segmentation": [("--data", f"ade20k:{root / 'items'}")],
    }


def draw(
    generator: random.Random, data: dict[str, list[tuple[str, ...]]], optimizers: list[str]
) -> list[str]:
    """The options of one run: a task, its data, a model, an optimizer, and any other settings."""
    (task,) = generator.choices(list(MODELS), [6, 1, 1])
    model, args = generator.choice(list(MODELS[task].items()))
    small = {"data.batch_size": 8 if task == "classification" else 2, "data.image_size": 16,
             "epochs": 2, "limit_train_batches": 4, "limit_val_batches": 2}  # fmt: skip
    of_tasks = chain.from_iterable(other.settings for other in TASKS.values())
    unused = tuple(set(of_tasks) - set(TASKS[task].settings))
    drawn = {
        name: generator.choice(values)
        for name, values in CHOICES.items()
        if generator.random() < SHARE and not name.startswith(unused)
    }
    if not model.startswith("kat"):
        for name in OF_RATIONALS:
            drawn.pop(name, None)
    if task != "classification":
        drawn["data.image_size"] = 64
    options = {**small, **drawn}
    options |= {
        "model.name": model,
        "model.args": f"{{{args}}}",
        "optim.name": generator.choice(optimizers),
        "checkpoint.every_n_steps": generator.choice([1, 2, 3]),
    }
    if options.get("strategy") == "fsdp":  # some of timm's fail on shards without elements
        options["optim.name"] = generator.choice(["adamw", "sgd", "lion", "adamax"])
    if task == "detection":
        options["data.boxes_only"] = generator.choice(["true", "false"])
    named = generator.choice(data[task])
    if named[1].partition(":")[0] in HOLD_OUT and generator.random() < SHARE:
        options["data.validate_on"] = "holdout"
    chosen = [f"--{name}={value}" for name, value in options.items()]
    return ["--config=none", *named, *chosen]
