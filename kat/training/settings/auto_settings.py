"""The settings that are auto: from the run, from the source model, from the number of images."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any, Literal

import timm
import torch

from kat.data import ImageDataset, UnreadableImage
from kat.data.decoding import header
from kat.errors import InputError
from kat.models import ViTSource
from kat.models.checkpoints.model_record import registered_preprocessing
from kat.models.checkpoints.weight_files import STEM
from kat.settings import AUTO, flat, merged, settings_from
from kat.text import listing
from kat.training.config import TrainConfig
from kat.training.settings.recipes import nested
from kat.training.tasks.registry import TASKS

_OF_IMAGES = {
    "data.image_size", "data.channels", "data.interpolation", "data.crop_pct", "data.mean",
    "data.std",
}  # fmt: skip
_WARM_UPS = {"optim.rational_warmup_epochs": 10, "optim.warmup_epochs": 20}
"""The parts of a run, of which each warm-up takes one."""
_AUTOMATIC = {
    "epochs", "model.name", "data.batch_size", "augment.mixup", "optim.lr", "optim.layer_decay",
    *_OF_IMAGES, *_WARM_UPS,
}  # fmt: skip
"""The settings that can be auto until the run is resolved."""
_MEASURED = 100
"""The most images whose sides are read to choose the size."""
_VIT = re.compile(r"^(vit|deit3?)_")
Values = dict[str, Any]
"""Values by the dotted names of the settings."""


def resolve_auto(
    config: TrainConfig,
    data: ImageDataset,
    kept: Mapping[str, Any],
    source: ViTSource | None,
    device: torch.device,
) -> tuple[TrainConfig, list[str]]:
    """Return the settings with a value for each that is auto, and lines for the user.

    The values come from run.yaml where the run is resumed. Else model and preprocessing are those
    of the source, or chosen for the data, and :func:`choose` has the rest. Rates decay over the
    layers, by 0.75, where a source gives the weights. Model, weights of the classes, and a warm-up
    that would not end before the run does have values in any case.

    Args:
        config: the settings as they are given.
        data: the training split.
        kept: the settings of the run that is resumed; empty for a new one.
        source: the model that the run starts from.
        device: trains the model.

    Raises:
        InputError: a value cannot be determined.
    """
    given, reason = flat(asdict(config)), ""
    wanted = [name for name, value in given.items() if value == AUTO and name in _AUTOMATIC]
    model: Values = {"model.name": config.model.name, "model.args": {}}
    if config.model.name == AUTO:
        if kept:
            model = {"model.name": kept["model"]["name"], "model.args": kept["model"]["args"]}
        elif source is None or source.task != data.task:
            model, reason = from_scratch(config, data, device, source)
        else:
            model = _model_of(source)
    model["model.args"] = {**model["model.args"], **config.model.args}
    found = flat(kept)
    if not kept:
        found = choose(len(data), config.data.batch_size, config.epochs)
        found["optim.layer_decay"] = 1.0 if source is None else 0.75
        if not _OF_IMAGES.isdisjoint(wanted):
            found |= _preprocessing(model, source)
    values: Values = {name: found.get(name) for name in wanted} | model
    values["loss.class_weights"], weights = class_weights(config.loss.class_weights, data)
    epochs = values.get("epochs", config.epochs)
    lines = [weights]
    for name, part in _WARM_UPS.items():
        long = values.get(name, given[name])
        if long >= epochs:
            values[name] = epochs / part
            lines.append(f"{name}={long:g} is shortened to {values[name]:g} with epochs={epochs}")
    chosen = [f"{name}={values[name]}" for name in wanted if values[name] is not None]
    if chosen:
        by = ""
        if "optim.rational_warmup_epochs" in wanted:  # as in these recipes alone
            by = f" as by --config {TASKS[data.task].recipe}, for {data.task}"
        lines.insert(0, f"chosen{by}: {', '.join(chosen)}{reason and f' ({reason})'}")
    return settings_from(TrainConfig, merged(asdict(config), nested(values))), lines


def choose(images: int, batch_size: Any = AUTO, epochs: Any = AUTO) -> Values:
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
        batch_size: batch size; the other settings follow it.
        epochs: number of epochs; the other settings follow it.
    """
    if batch_size == AUTO:
        power = 2 ** math.floor(math.log2(images / 25))
        batch_size = min(max(8, min(power, 64)), images)
    if epochs == AUTO:
        epochs = round(min(max(80 * (images / 100) ** -math.log10(2), 5), 100))
    return {
        "epochs": epochs,
        "data.batch_size": batch_size,
        "augment.mixup": 0.1 if images >= 20_000 else 0.0,
        "optim.lr": round(1e-3 * math.sqrt(batch_size / 64), 7),
        **{warm_up: epochs / part for warm_up, part in _WARM_UPS.items()},
    }


def from_scratch(
    config: TrainConfig, data: ImageDataset, device: torch.device, source: ViTSource | None = None
) -> tuple[Values, str]:
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
        ``model.name``, ``model.args`` and ``data.image_size``, and the reasons for the choice.

    Raises:
        InputError: none of the measured images can be read.
    """
    task, kind = TASKS[data.task], "CPU" if device.type == "cpu" else "GPU"
    name, largest = task.on_cpu if kind == "CPU" else task.on_gpu
    name = "kat_small_patch16_224" if name.startswith("kat_tiny") and len(data) >= 1e5 else name
    known = "" if source is None or source.record is None else source.record.architecture
    if own := re.search("micro|tiny|small|base", known):  # kat_det_base for vit_base_patch16_224
        name = re.sub("micro|tiny", own[0], name)
    reason = f"{name} for {known or 'training from scratch'} on a {kind}"
    size: Any = config.data.image_size
    is_open = size in (AUTO, None)
    side = _median_side(data) if is_open else size
    patch, args = 32, {}
    if task.patches:
        patch = next((patch for patch in task.patches if side <= 10 * patch), 16)
        args["patch_size"] = patch
    if is_open:
        size = patch * max(1, round(min(side, largest) / patch))
        reason += f", {size} pixels for a median side of {side}"
    return {"model.name": name, "model.args": args, "data.image_size": size}, reason


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


def class_weights(given: Literal["balanced"] | list[float] | None, data: ImageDataset) -> Any:
    """Return the weight of each class or None, and a line for the user or "".

    Args:
        given: ``loss.class_weights``.
        data: the training split.

    Raises:
        InputError: the list has another length than the classes, or no weight follows from the
            images of a class.
    """
    if given is None:
        return None, data.imbalance()
    classes = data.classes
    if given == "balanced":
        counts = data.class_counts()
        if counts.min() == 0:
            raise InputError(
                "loss.class_weights=balanced has no weight for class"
                f" {classes[counts.argmin()]!r}, of which no training image is known: give a list"
            )
        weights = (len(data) / (len(classes) * counts)).tolist()
        named = [f"{name} {weight:.4g}" for name, weight in zip(classes, weights, strict=True)]
        return weights, f"class weights: {listing(named, 8)}"
    if len(given) != len(classes):
        raise InputError(
            f"loss.class_weights has {len(given)} weights for the {len(classes)} classes"
            f" {listing(map(repr, classes), 8)}: give one for each, in this order"
        )
    return given, ""


def _model_of(source: ViTSource) -> Values:
    """Return the model of a source, or for a ViT the KAT of the same size, and its arguments."""
    record = source.record
    name = "" if record is None else record.architecture
    twin = name if source.is_kat else _VIT.sub("kat_", name)
    if record is None or not timm.is_model(twin) or (twin == name and not source.is_kat):
        reason = f"no KAT corresponds to {name!r}" if name else "the file does not name its model"
        raise InputError(
            f"model.name=auto: {reason}: give --model.name, such as kat_tiny_patch16_224"
        )
    return {"model.name": twin, "model.args": record.args}


def _preprocessing(model: Values, source: ViTSource | None) -> Values:
    """Return the preprocessing of the source, or as registered for the model.

    Without a source, channels, mean and std come from the data.
    """
    if source is not None and source.record is not None:
        found = vars(source.record)
    else:
        channels = None if source is None else source.weights[STEM].shape[1]
        found = registered_preprocessing(model["model.name"], channels)
    size = model["model.args"].get("img_size", found["input_size"][1:])
    values = {
        "data.image_size": size if isinstance(size, int) else size[0],
        "data.interpolation": found["interpolation"],
        "data.crop_pct": found["crop_pct"],
    }
    if source is not None:
        mean, std = list(found["mean"]), list(found["std"])
        values |= {"data.channels": len(mean), "data.mean": mean, "data.std": std}
    return values
