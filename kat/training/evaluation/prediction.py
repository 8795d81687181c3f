"""What a model says of a single image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Prediction:
    """What a model says of a single image.

    Args:
        entries: the most important first; each has a ``class`` and the task's figure.
        pictures: uint8 images to be saved, by what is added to the name of the image.
    """

    entries: list[dict[str, Any]]
    pictures: dict[str, Tensor] = field(default_factory=dict)
