"""The record of a model: what is needed to build it again and to prepare its input."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import timm
from pydantic import AfterValidator, Field
from timm.models import build_model_with_cfg
from torch import nn

from kat.errors import InputError, first_line, unknown
from kat.nn import Coefficients, given_coefficients
from kat.settings import (
    Count,
    Finite,
    Interpolation,
    Positive,
    Side,
    record_from,
)
from kat.text import counted, dimensions, numbered

_PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct")
_INITIAL_FUNCTIONS = {"first_init", "act_init"}
"""The arguments of a KAT that may be the path of a file."""
_TIMMS = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
} - {"kwargs", "model_args"}
"""timm's own arguments: with pretrained, pretrained_cfg or checkpoint_path it fetches weights."""


def _without_files(args: dict[str, Any]) -> dict[str, Any]:
    """Check that the arguments in a file name no other file."""
    for name in _INITIAL_FUNCTIONS:
        if str(args.get(name)).endswith(".json"):
            raise InputError(f"{name} must not be the path of a file in a stored model")
    return args


@dataclass
class ModelRecord:
    """The architecture, classes and preprocessing of a model, from which it can be built again.

    Args:
        architecture: the model's name in timm's registry.
        args: arguments of its constructor, none of timm's own, such as ``pretrained``: a record
            never downloads anything. If an initial function is the path of a file, it is
            replaced by the coefficients in the file, so that the record does not depend on it.
        classes: the class names, in the order of the logits.
        input_size: (channels, height, width).
        mean, std: of each channel.
        interpolation, crop_pct: of the evaluation transform.
        category_ids: the ids of the classes in the COCO file of the training, if it was one.
        calibration: of a calibrated classifier, ``temperature``, by which its last layer was
            divided, the number of ``images``, and by ``loss_before``, ``loss_after``,
            ``ece_before`` and ``ece_after`` what it changed; see :func:`kat.calibrate`.

    Raises:
        InputError: an invalid field.

    Examples:
        >>> from kat.models import ModelRecord, build_model
        >>> record = ModelRecord(
        ...     "kat_micro",
        ...     classes=["cat", "dog"],
        ...     input_size=(3, 32, 32),
        ...     mean=(0.5, 0.5, 0.5),
        ...     std=(0.5, 0.5, 0.5),
        ...     interpolation="bicubic",
        ...     crop_pct=1.0,
        ... )
        >>> build_model(record).num_classes
        2
    """

    # Ranges are checked where a file is read, by kat.settings.record_from.
    architecture: str
    classes: list[str]
    input_size: tuple[Count, Side, Side]
    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]
    interpolation: Interpolation
    crop_pct: Annotated[float, Field(ge=0.01, le=2)]  # above 1, as of VOLO, images are padded
    args: Annotated[dict[str, Any], AfterValidator(_without_files)] = field(default_factory=dict)
    category_ids: list[int] | None = None
    calibration: dict[str, Positive] | None = None

    def __post_init__(self) -> None:
        check_arguments(self.architecture, self.args)
        channels = self.input_size[0]
        if not len(self.mean) == len(self.std) == channels:
            raise InputError(
                f"mean and std must have one number for each of the {channels} channels, got"
                f" {self.mean} and {self.std}"
            )
        for name in _INITIAL_FUNCTIONS & self.args.keys():
            init = self.args[name]
            if isinstance(init, str | Coefficients) or callable(init):
                rational = {key: self.args[key] for key in ("degree", "form") if key in self.args}
                init = given_coefficients(init, **rational)
                init = init if isinstance(init, str) else init.to_dict()
                self.args = {**self.args, name: init}

    def to_timm(self) -> dict[str, Any]:
        """Return the contents of timm's config.json."""
        # transformers passes num_classes in addition to model_args
        args = {name: value for name, value in self.args.items() if name != "num_classes"}
        registered: Any = timm.get_pretrained_cfg(self.architecture)
        pretrained = {
            "input_size": list(self.input_size),
            "fixed_input_size": True,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "mean": list(self.mean),
            "std": list(self.std),
            "num_classes": len(self.classes),
            "first_conv": registered.first_conv if registered else "patch_embed.proj",
            "classifier": registered.classifier if registered else "head",
        }
        config = {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "label_names": self.classes,
            "model_args": input_args(self.architecture, self.input_size) | args,
            "pretrained_cfg": pretrained,
        }
        if self.category_ids is not None:
            config["category_ids"] = self.category_ids
        if self.calibration is not None:
            config["calibration"] = self.calibration
        return config

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], source: object = "config.json") -> ModelRecord:
        """Read the output of :meth:`to_timm`, from a file that ``source`` names in errors.

        Raises:
            InputError: an entry is missing or invalid.
        """
        if not isinstance(config, Mapping) or "pretrained_cfg" not in config:
            raise InputError(
                f"{source} is not a model's config.json: it has no entry pretrained_cfg; what"
                " kat export wrote for transformers loads only there"
            )
        entries = record_from(_Config, config, source)
        fields = {**entries.pretrained_cfg, **config, "args": entries.model_args or {}}
        fields["classes"] = fields.get("label_names") or numbered(entries.num_classes)
        record = record_from(cls, fields, source)
        given = input_args(record.architecture, record.input_size)
        record.args = {k: value for k, value in record.args.items() if given.get(k) != value}
        return record


@dataclass
class _Config:
    """The entries of timm's config.json that a record has under other names."""

    pretrained_cfg: dict[str, Any]
    num_classes: Annotated[int, Field(ge=0, le=2**20)]
    model_args: dict[str, Any] | None


def input_args(architecture: str, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Return the constructor's arguments for an input of (channels, height, width).

    Examples:
        >>> from kat.models import input_args
        >>> input_args("kat_micro", (1, 28, 28))
        {'in_chans': 1, 'img_size': [28, 28]}
    """
    channels, height, width = input_size
    registered = timm.get_pretrained_cfg(architecture)
    sized = registered is not None and registered.fixed_input_size
    return {"in_chans": channels, **({"img_size": [height, width]} if sized else {})}


def check_architecture(name: str) -> None:
    """Check that a name is in timm's registry.

    Raises:
        InputError: names the closest model.
    """
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models())


def check_arguments(architecture: str, args: Mapping[str, Any]) -> None:
    """Check that nothing is fetched, and that a model of this library takes the arguments.

    The name must be in timm's registry, and no argument may be timm's own.

    Raises:
        InputError: names the model or the argument, and the closest one.
    """
    check_architecture(architecture)
    if own := sorted(_TIMMS & args.keys()):
        raise InputError(f"{own[0]} is an argument of timm, not of {architecture}")
    create: Any = timm.model_entrypoint(architecture)
    if isinstance(create, partial):
        made = create.args[0]
        classes = made.__mro__ + getattr(made, "transformer_class", nn.Module).__mro__
        known: set[str] = set()
        for each in classes:
            known.update(inspect.signature(each.__init__).parameters)
        if strange := sorted(args.keys() - known):
            raise unknown(f"argument of {architecture}", strange[0], known)


def registered_preprocessing(name: str, channels: int | None = None) -> dict[str, Any]:
    """Return the preprocessing of a model in timm's registry, as fields of :class:`ModelRecord`.

    Args:
        name: of the model.
        channels: of the images; for another number than the model's own, mean and std are 0.5.

    Raises:
        InputError: an unknown name (with the closest one).

    Examples:
        >>> from kat.models import registered_preprocessing
        >>> registered_preprocessing("kat_tiny_patch16_224")["crop_pct"]
        0.875
    """
    check_architecture(name)
    registered: Any = timm.get_pretrained_cfg(name)
    recipe = {key: getattr(registered, key) for key in _PREPROCESSING}
    if channels not in (None, len(recipe["mean"])):
        recipe |= {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    return recipe


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model``, with errors that a user can act on.

    Raises:
        InputError: an unknown name (with the closest one), or arguments that the model rejects.

    Examples:
        >>> import kat
        >>> model = kat.models.create_model("kat_micro", num_classes=3, num_groups=4)
        >>> kat.models.create_model("kat_mikro")
        Traceback (most recent call last):
            ...
        kat.errors.InputError: unknown model 'kat_mikro'; did you mean 'kat_micro'?
    """
    if ":" not in name:  # of a hub
        check_architecture(name)
    try:
        return timm.create_model(name, **kwargs)
    except Exception as error:  # timm and its models raise many kinds for invalid arguments
        reason = first_line(error)
        raise InputError(f"model {name!r} cannot be built with {kwargs}: {reason}") from None


def build_model(record: ModelRecord, **kwargs: Any) -> nn.Module:
    """Build the model that a record describes, with fresh weights.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import build_model, load_model
        >>> _, record = load_model(Path("runs/digits"))
        >>> untrained = build_model(record)
    """
    known = input_args(record.architecture, record.input_size)
    args = {"num_classes": len(record.classes), **known, **record.args, **kwargs}
    model = create_model(record.architecture, **args)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", (1,))
    if min(grid) < 1:
        sides = dimensions(record.input_size[1:])
        raise InputError(f"image_size {sides} is smaller than a patch of {record.architecture}")
    return model


def unseen_pixels(model: nn.Module, input_size: tuple[int, int, int]) -> str:
    """Return a message about the pixels that the patches leave out, with the two nearest sizes.

    Args:
        model: a model; one without patches, or one that pads images to them, sees every pixel.
        input_size: (channels, height, width).
    """
    patch_embed: Any = getattr(model, "patch_embed", None)
    if not getattr(patch_embed, "strict_img_size", False):
        return ""
    pairs = [*zip(input_size[1:], patch_embed.patch_size, strict=True)]
    unseen = max(side % step for side, step in pairs)
    if not unseen:
        return ""
    smaller = dimensions(max(side // step, 1) * step for side, step in pairs)
    larger = dimensions(-(-side // step) * step for side, step in pairs)
    return (
        f"image_size {dimensions(input_size[1:])} is no multiple of the patch size"
        f" {dimensions(patch_embed.patch_size)}: the model does not see {counted(unseen, 'pixel')}"
        f" at the right or lower edge; the nearest sizes are {smaller} and {larger}"
    )
