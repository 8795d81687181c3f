"""The settings that are auto: from the run, from the source model, from the number of images."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from statistics import median
from typing import Any, TypeVar

import timm
import torch

from kat.data import ImageDataset, UnreadableImage
from kat.data.decoding import header
from kat.errors import InputError
from kat.models import ViTSource
from kat.models.checkpoints.model_record import registered_preprocessing
from kat.models.checkpoints.weight_files import STEM
from kat.settings import AUTO
from kat.text import listing
from kat.training.config import LossConfig, ModelConfig, TrainConfig
from kat.training.tasks.registry import TASKS

_WARM_UPS = {"warmup_epochs": 20, "rational_warmup_epochs": 10}
"""The parts of a run, of which each warm-up takes one."""
_MEASURED = 100
"""The most images whose sides are read to choose the size."""
_VIT = re.compile(r"^(vit|deit3?)_")
Settings = TypeVar("Settings")


def resolve_auto(
    config: TrainConfig,
    data: ImageDataset,
    kept: Mapping[str, Any],
    source: ViTSource | None,
    device: torch.device,
) -> tuple[TrainConfig, str]:
    """Resolve every setting that is auto, and the weights of the classes.

    Args:
        config: the settings.
        data: the training split.
        kept: the settings of the run that is resumed; empty for a new one.
        source: the model that the run starts from.
        device: trains the model.

    Returns:
        The settings, and the reasons for a model that was chosen, else "".

    Raises:
        InputError: a setting cannot be determined.
    """
    reason = ""
    if config.model.name == AUTO and not kept and (source is None or source.task != data.task):
        config, reason = from_scratch(config, data, device, source)
    config = fill_auto(config, kept, source, len(data))
    return replace(config, loss=with_class_weights(config.loss, data)), reason


def choose(
    images: int, *, batch_size: int | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Choose settings of fine-tuning by the number of training images.

    - batch_size: the power of two at or below images / 25, from 8 to 64. An epoch then
      has at least 25 steps, unless the data has fewer than 200 images.
    - epochs: 80 (images / 100)^(-log10 2), from 5 to 100: half as many for ten times the images,
      i.e., 80 for 100 images, 40 for 1,000, 20 for 10,000 and 10 for 100,000; the number of steps
      grows from about 1,000 to 16,000.
    - lr: 0.001 sqrt(batch_size / 64), since Adam divides by the gradient noise, which falls
      with the square root of the batch size.
    - warmup_epochs: 1/20 of the epochs.
    - rational_warmup_epochs: 1/10 of the epochs. The first gradients through a new head carry
      little information, and each coefficient affects every token of every image.
    - mixup: 0.1 for 20,000 images or more, else 0, as in the BiT-HyperRule (arXiv 1912.11370).
      Small datasets need short runs, in which mixup does not help.

    Args:
        images: number of training images.
        batch_size: batch size if it is not auto; the other settings follow it.
        epochs: number of epochs if it is not auto; the other settings follow it.

    Returns:
        Values by the names of the settings, nested as in a recipe.
    """
    power = 2 ** math.floor(math.log2(max(1.0, images / 25)))
    batch_size = batch_size or min(max(8, min(power, 64)), max(1, images))
    wanted = 80 * (max(1, images) / 100) ** -math.log10(2)
    epochs = epochs or round(min(max(wanted, 5), 100))
    return {
        "epochs": epochs,
        "data": {"batch_size": batch_size},
        "optim": {
            "lr": round(1e-3 * math.sqrt(batch_size / 64), 7),
            **{name: epochs / part for name, part in _WARM_UPS.items()},
        },
        "augment": {"mixup": 0.1 if images >= 20_000 else 0.0},
    }


def from_scratch(
    config: TrainConfig, data: ImageDataset, device: torch.device, source: ViTSource | None = None
) -> tuple[TrainConfig, str]:
    """Choose a model, and the size of its images if it is auto, for data without a trained model.

    A source for another task, such as a classifier for detection, gives the size of the model.

    - model: kat_micro, kat_det_micro or kat_upernet_micro on a CPU, and their tiny sizes on a GPU;
      there kat_small for classification from 100,000 images on.
    - image_size: the median side of 100 images, rounded to a multiple of the patch (of 32 pixels
      for detection and segmentation), at most 224 for classification, 256 and on a GPU 640 for
      detection, 128 and on a GPU 512 for segmentation. The side is the shorter one, for detection
      the longer one.
    - patch of a classifier: the smallest of 2, 4 and 8 with at most 100 patches, else 16.

    Returns:
        The settings, and the reasons for the choice.

    Raises:
        InputError: none of the measured images can be read.
    """
    task, on_gpu = TASKS[data.task], device.type != "cpu"
    name, largest = task.on_gpu if on_gpu else task.on_cpu
    name = "kat_small_patch16_224" if name.startswith("kat_tiny") and len(data) >= 1e5 else name
    known = "" if source is None or source.record is None else source.record.architecture
    if own := re.search("micro|tiny|small|base", known):  # kat_det_base for vit_base_patch16_224
        name = re.sub("micro|tiny", own[0], name)
    reason = f"{name} for {known or 'training from scratch'} on a {'GPU' if on_gpu else 'CPU'}"
    size: Any = config.data.image_size
    side = _median_side(data) if size in (AUTO, None) else size
    patch, args = 32, config.model.args
    if task.patches:
        patch = next((patch for patch in task.patches if side <= 10 * patch), 16)
        args = {"patch_size": patch, **args}
    if size in (AUTO, None):
        size = patch * max(1, round(min(side, largest) / patch))
        reason += f", {size} pixels for a median side of {side}"
    model = replace(config.model, name=name, args=args)
    return replace(config, model=model, data=replace(config.data, image_size=size)), reason


def _median_side(data: ImageDataset) -> int:
    """Return the median side in pixels: of the shorter sides, or of the longer ones by task."""
    choose_side = max if TASKS[data.task].longer_side else min
    if data.image_size is not None:
        return choose_side(data.image_size)
    sides = []
    for index in range(len(some := data.evenly_spaced(_MEASURED))):
        try:
            image, _ = some.read(index)
            size = header(image, some.name(index))[0] if isinstance(image, bytes) else image.size
            sides.append(choose_side(size))
        except UnreadableImage:
            continue
    if not sides:
        raise InputError(f"none of {len(some)} training images can be read, first {some.name(0)}")
    return round(median(sides))


def fill_auto(
    config: TrainConfig, kept: Mapping[str, Any], source: ViTSource | None, images: int
) -> TrainConfig:
    """Return the settings without any auto.

    The values come from run.yaml where the run is resumed. Else model and preprocessing are those
    of the source, and :func:`choose` has the rest. A warm-up that would not end before the run does
    is replaced, too.

    Rates decay over the layers, by 0.75, where a source gives the weights.

    Args:
        config: the settings.
        kept: the settings of the run that is resumed; empty for a new one.
        source: the model that the run starts from.
        images: number of training images.

    Raises:
        InputError: the model or the size of the images cannot be determined.
    """
    name, args = config.model.name, config.model.args
    if name == AUTO and kept:
        name, args = kept["model"]["name"], {**kept["model"]["args"], **args}
    elif name == AUTO and source is not None:
        name, args = _model_of(source, args)
    model = replace(config.model, name=name, args=args)
    values = {key: v for key, v in kept.items() if key == "epochs" or isinstance(v, dict)}
    data = _filled(config.data, values["data"] if kept else _preprocessing(config, model, source))
    given = replace(config, model=model, data=data)
    chosen = choose(
        images,
        batch_size=None if data.batch_size == AUTO else data.batch_size,
        epochs=None if config.epochs == AUTO else config.epochs,
    )
    chosen["optim"]["layer_decay"] = 1.0 if source is None else 0.75
    whole = _filled(given, values or chosen)
    optim, epochs = whole.optim, whole.epochs
    shorter: dict[str, Any] = {
        n: epochs / p for n, p in _WARM_UPS.items() if getattr(optim, n) >= epochs
    }
    return replace(whole, optim=replace(optim, **shorter))


def with_class_weights(loss: LossConfig, data: ImageDataset) -> LossConfig:
    """Return the settings of the loss with a weight for each class, unless there are no weights.

    Args:
        loss: the settings.
        data: the training split.

    Raises:
        InputError: the list has another length than the classes, or no weight follows from the
            images of a class.
    """
    weights, classes = loss.class_weights, data.classes
    if weights == "balanced":
        counts = data.class_counts()
        if counts.min() == 0:
            raise InputError(
                "loss.class_weights=balanced has no weight for class"
                f" {classes[counts.argmin()]!r}, of which no training image is known: give a list"
            )
        weights = (len(data) / (len(classes) * counts)).tolist()
    if weights is not None and len(weights) != len(classes):
        raise InputError(
            f"loss.class_weights has {len(weights)} weights for the {len(classes)} classes"
            f" {listing(map(repr, classes), 8)}: give one for each, in this order"
        )
    return replace(loss, class_weights=weights)


def _filled(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings in which values of the same names replace what is auto, nested alike."""
    changed: dict[str, Any] = {}
    for name in (field.name for field in fields(settings) if field.name in values):  # type: ignore[arg-type]
        value = getattr(settings, name)
        if is_dataclass(value):
            changed[name] = _filled(value, values[name])
        elif value == AUTO:
            changed[name] = values[name]
    return replace(settings, **changed)  # type: ignore[type-var]


def _model_of(source: ViTSource, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the model of a source, or for a ViT the KAT of the same size, and its arguments."""
    record = source.record
    name = "" if record is None else record.architecture
    twin = name if source.is_kat else _VIT.sub("kat_", name)
    if record is None or not timm.is_model(twin) or (twin == name and not source.is_kat):
        reason = f"no KAT corresponds to {name!r}" if name else "the file does not name its model"
        raise InputError(
            f"model.name=auto: {reason}: give --model.name, such as kat_tiny_patch16_224"
        )
    return twin, {**record.args, **args}


def _preprocessing(
    config: TrainConfig, model: ModelConfig, source: ViTSource | None
) -> dict[str, Any]:
    """Return the preprocessing of the source, or as registered for the model; or nothing.

    Without a source, channels, mean and std come from the data.
    """
    names = ("image_size", "channels", "mean", "std", "interpolation", "crop_pct")
    if not any(getattr(config.data, name) == AUTO for name in names):
        return {}
    found: dict[str, Any] = dict.fromkeys(names)
    if source is None or source.record is None:
        channels = None if source is None else source.weights[STEM].shape[1]
        recipe = registered_preprocessing(model.name, channels)
    else:
        recipe = vars(source.record)
    if source is not None:
        mean, std = list(recipe["mean"]), list(recipe["std"])
        found |= {"channels": len(mean), "mean": mean, "std": std}
    size = model.args.get("img_size", recipe["input_size"][1:])
    found["image_size"] = size if isinstance(size, int) else size[0]
    found["interpolation"], found["crop_pct"] = recipe["interpolation"], recipe["crop_pct"]
    return found
