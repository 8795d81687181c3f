"""How a detector or a segmentation model predicts some images, beside the ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from kat.analysis.inspect.images import ValidationImages
from kat.data import ImageDataset, UnreadableImage
from kat.training.evaluation.evaluation import EvalConfig, Evaluation, Subject
from kat.training.tasks.registry import TASKS

Pair = tuple[Tensor, Tensor]
"""A picture of an image with its ground truth, and one with what is predicted: (3, H, W) uint8."""


@dataclass(frozen=True)
class DenseFindings:
    """The predictions for some validation images.

    Args:
        evaluation: the metrics over all of them.
        pairs: pictures of the first ones.
    """

    evaluation: Evaluation
    pairs: list[Pair]


def dense_findings(subject: Subject, seen: ValidationImages, drawn: int = 4) -> DenseFindings:
    """Evaluates a model on images, and draws some of them.

    Args:
        subject: the model, on the CPU.
        seen: the images.
        drawn: the largest number of images that are drawn.

    Raises:
        InputError: the classes are not those of the model, or no image can be read.
    """
    images, task = seen.images, TASKS[seen.images.task]
    assert isinstance(images, ImageDataset)
    config = EvalConfig(device="cpu", progress=False)
    found = task.evaluate(subject, images, seen.data, config, task.EvalOptions())
    pairs = _pairs(subject, images.evenly_spaced(drawn))
    return DenseFindings(found, list(pairs))


def _pairs(subject: Subject, images: ImageDataset) -> Iterator[Pair]:
    task = TASKS[images.task]
    for index in range(len(images)):
        try:
            yield task.draw_beside_truth(subject, images, index)
        except UnreadableImage:
            continue
