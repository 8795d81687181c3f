"""The settings that are auto, from the source model and the number of images."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from kat.errors import InputError
from kat.models import ViTSource
from kat.models.checkpoints.model_record import registered_preprocessing
from kat.models.conversion.convert import make_record
from kat.training.config import TrainConfig, automatic, setting, with_settings
from kat.training.run_directory import read_settings

_WARM_UPS = ("optim.warmup_epochs", "optim.rational_warmup_epochs")
_RECIPE = ("input_size", "interpolation", "crop_pct")
_VIT = re.compile(r"^(vit|deit3?)_")


def choose(
    images: int, *, batch_size: int | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Chooses settings of fine-tuning by the number of training images.

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
        Values by the dotted names of the settings.
    """
    power = 2 ** math.floor(math.log2(max(1.0, images / 25)))
    batch_size = batch_size or min(max(8, min(power, 64)), max(1, images))
    wanted = 80 * (max(1, images) / 100) ** -math.log10(2)
    epochs = epochs or round(min(max(wanted, 5), 100))
    return {
        "epochs": epochs,
        "data.batch_size": batch_size,
        "optim.lr": round(1e-3 * math.sqrt(batch_size / 64), 7),
        "optim.warmup_epochs": epochs / 20,
        "optim.rational_warmup_epochs": epochs / 10,
        "augment.mixup": 0.1 if images >= 20_000 else 0.0,
    }


def from_images(config: TrainConfig, images: int) -> TrainConfig:
    """Fills in the settings that :func:`choose` derives from the number of training images.

    It also chooses a warm-up that would not end before the run does.
    """
    auto = automatic(config)
    chosen = choose(
        images,
        batch_size=None if "data.batch_size" in auto else config.data.batch_size,
        epochs=None if "epochs" in auto else config.epochs,
    )
    too_long = [
        name for name in _WARM_UPS if name not in auto and setting(config, name) >= chosen["epochs"]
    ]
    return with_settings(config, {n: chosen[n] for n in (*auto, *too_long) if n in chosen})


def from_run(config: TrainConfig) -> TrainConfig:
    """Fills in the auto settings of a resumed run from its run.yaml.

    Raises:
        InputError: run.yaml does not contain one of them.
    """
    auto = automatic(config)
    if not auto:
        return config
    settings = read_settings(Path(config.out))
    values = {name: _recorded(settings, name) for name in auto}
    if "model.name" in values:
        values["model.args"] = {**_recorded(settings, "model.args"), **config.model.args}
    return with_settings(config, values)


def _recorded(settings: Mapping[str, Any], name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"{name}=auto, but {name} is missing in run.yaml")
        value = value[part]
    return value


def from_source(config: TrainConfig, source: ViTSource | None) -> TrainConfig:
    """Fills in the settings that depend on the model that the run starts from.

    The model name and arguments come from the source's record; for a ViT, the model is the KAT of
    the same size. Preprocessing also comes from the record, or from the registered configuration
    of the model if there is no record. Without a source, channels, mean and std come from the data.

    Raises:
        InputError: the model cannot be determined.
    """
    auto = automatic(config)
    if "model.name" in auto:
        config = _with_model(config, source)
    images = any(name.startswith("data.") for name in auto)
    values = _preprocessing(config, source) if images else {}
    return with_settings(config, {name: values[name] for name in auto if name in values})


def _with_model(config: TrainConfig, source: ViTSource | None) -> TrainConfig:
    if source is None:
        raise InputError(
            "model.name=auto takes the model from a checkpoint: give --init-from or --model.name"
        )
    if source.record is None:
        raise InputError(f"{source.name} does not name its model; give --model.name")
    name = source.record.architecture
    twin = name if source.is_kat else _VIT.sub("kat_", name)
    if not timm.is_model(twin) or (twin == name and not source.is_kat):
        raise InputError(
            f"no KAT corresponds to {name!r}; give --model.name, one of"
            f" {', '.join(timm.list_models('kat_*'))}"
        )
    args = {**source.record.args, **config.model.args}
    return with_settings(config, {"model.name": twin, "model.args": args})


def _preprocessing(config: TrainConfig, source: ViTSource | None) -> dict[str, Any]:
    own: dict[str, Any] = {"data.channels": None, "data.mean": None, "data.std": None}
    if source is None:
        recipe = registered_preprocessing(config.model.name)
    else:
        record = source.record or make_record(source, config.model.name, config.model.args, None)
        recipe = {name: getattr(record, name) for name in _RECIPE}
        own = {"data.mean": list(record.mean), "data.std": list(record.std)}
        own["data.channels"] = record.input_size[0]
    _, height, width = recipe["input_size"]
    if height != width:
        raise InputError(
            f"data.image_size=auto, but {config.model.init_from or config.model.name} takes images"
            f" of {height}x{width}, which are not square; give data.image_size"
        )
    return {
        **own,
        "data.image_size": height,
        "data.interpolation": recipe["interpolation"],
        "data.crop_pct": recipe["crop_pct"],
    }


def describe(before: TrainConfig, after: TrainConfig) -> list[str]:
    """One line for the settings that were auto, and one for each warm-up that was too long."""
    auto = automatic(before)
    chosen = ", ".join(f"{name}={setting(after, name)}" for name in auto)
    shortened = [
        f"{name}={setting(before, name):g} is shortened to {setting(after, name):g}: the run has"
        f" {after.epochs} epochs"
        for name in _WARM_UPS
        if name not in auto and setting(after, name) != setting(before, name)
    ]
    return [f"chosen: {chosen}", *shortened] if chosen else shortened
