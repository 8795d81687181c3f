"""The record in an exported file: the model's config.json and what the file takes, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from kat.documents import parse_json
from kat.errors import InputError
from kat.models import ModelRecord
from kat.settings import Side, record_from
from kat.text import dimensions
from kat.version import __version__

KEY = "kat"
"""The name of the record in the metadata of a file."""

PICTURES = "pictures"
"""The task of a classifier's file that holds its preprocessing."""
_OUTPUTS = {"detection": "detections", "features": "features", PICTURES: "probabilities"}


@dataclass
class _Own:
    """The entries that only the record of an exported file has."""

    image_size_step: tuple[Side, Side] | None
    task: Literal["classification", "detection", "segmentation", "features", "pictures"]
    run: dict[str, Any]


class ExportRecord(NamedTuple):
    """The description of an exported file, which it holds itself.

    Args:
        model: the model, its classes and its preprocessing.
        step: (height, width), of which the sides of images are multiples; None if the file takes
            images of ``model.input_size`` only.
        task: the task of the model; ``"features"`` without its head, :data:`PICTURES` with
            preprocessing.
        run: the data, holdout and seed of its training, on which 'kat eval' relies; see
            :func:`kat.training.evaluation.run_data.settings_of_run`.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import ExportRecord
        >>> from kat.models import load_model
        >>> _, record = load_model(Path("runs/digits"))
        >>> ExportRecord(record, step=None).preprocessing()["crop"]
        'the 8 x 8 pixels in the center'
    """

    model: ModelRecord
    step: tuple[int, int] | None
    task: str = "classification"
    run: Mapping[str, Any] = {}

    @property
    def outputs(self) -> str:
        """The kind of its outputs: logits, detections, features or probabilities."""
        return _OUTPUTS.get(self.task, "logits")

    @property
    def resizes(self) -> bool:
        """True if the file resizes images itself, as a detector's does."""
        return self.task in ("detection", PICTURES)

    @property
    def window(self) -> int | None:
        """The side of the images that a segmentation model takes, if it is fixed."""
        fixed = self.task == "segmentation" and self.step is None
        return min(self.model.input_size[1:]) if fixed else None

    def to_json(self) -> str:
        """timm's config.json, with the step, the task, and the versions of the writer."""
        config = self.model.to_timm()
        preprocessing = self.preprocessing()
        config["pretrained_cfg"]["fixed_input_size"] = self.step is None
        config["pretrained_cfg"]["interpolation"] = preprocessing["interpolation"]
        versions = {"kat": __version__, "torch": torch.__version__}
        own = {
            "image_size_step": self.step,
            "task": self.task,
            "run": dict(self.run),
            "preprocessing": preprocessing,
            "written_by": versions,
        }
        return json.dumps({**config, **own})

    def preprocessing(self) -> dict[str, Any]:
        """Return the steps from the pixels of an image, from 0 to 255, to the input of the model.

        They are resized and cropped, multiplied by ``scale``, and normalized by mean and std.
        """
        _, height, width = self.model.input_size
        classifies = self.task in ("classification", PICTURES)
        side = math.floor(min(height, width) / (self.model.crop_pct if classifies else 1))
        return {
            "resize": "in the file" if self.resizes else f"the shorter side to {side}",
            "interpolation": self.model.interpolation if classifies else "bilinear",
            "antialias": True,
            "crop": f"the {height} x {width} pixels in the center" if classifies else None,
            "scale": 1 / 255,
            "mean": list(self.model.mean),
            "std": list(self.model.std),
        }

    @classmethod
    def from_json(cls, text: str | bytes | None, source: str) -> ExportRecord:
        """Read the output of :meth:`to_json`.

        Args:
            text: the record, or None if the file has none.
            source: what to call the file in an error.

        Raises:
            InputError: there is no record, or it is damaged.
        """
        if text is None:
            raise InputError(
                f"{source} was not written by 'kat export', or was changed since: it has no record"
                " of classes and preprocessing, without which its outputs mean nothing"
            )
        config = parse_json(text, source)
        model = ModelRecord.from_timm(config, source)
        own = record_from(_Own, config, source)
        return cls(model, own.image_size_step, own.task, own.run)

    def check_size(self, images: torch.Size) -> None:
        """Check the shape (B, C, H, W) of a batch.

        Raises:
            InputError: the model does not take images of that size.
        """
        channels, *size = self.model.input_size
        given, sides = list(images[1:]), dimensions(size)
        fits = given == [channels, *size]
        if self.step is not None:
            sides = f"any multiple of {dimensions(self.step)}"
            rest = [side % step for side, step in zip(given[1:], self.step, strict=True)]
            fits = given[0] == channels and not any(rest)
        if not fits:
            raise InputError(
                f"the model takes images of {channels} channels and {sides} pixels, got"
                f" {dimensions(given)}"
            )
