"""Evaluates a model of any task on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from kat.data import DataConfig, open_split
from kat.models import ModelRecord
from kat.settings import check_ranges
from kat.training.evaluation.evaluation import EvalConfig, Evaluation, Subject
from kat.training.tasks.registry import TASKS, check_task


def evaluate(
    model: nn.Module,
    record: ModelRecord,
    data: DataConfig,
    config: EvalConfig | None = None,
    options: Any = None,
    *,
    source: Path | str = "the model",
) -> Evaluation:
    """Runs a model over the validation split of a dataset; every readable image counts once.

    Args:
        model: is moved to the device.
        record: its classes, and how it wants its images.
        data: where the images are, and how they are loaded; its preprocessing is not used.
        config: how to run the model.
        options: of the task, an instance of its ``EvalOptions``.
        source: where the model is stored, or what to call it in an error.

    Raises:
        InputError: settings out of range, data for another task or with other classes, no image
        that
            can be read, or logits that are not finite.
    """
    config = config or EvalConfig()
    check_ranges(data, "data")
    images = open_split(data, "val")
    check_task(model, images, (str(source), data.name))
    task = TASKS[images.task]
    subject = Subject(model, record, source)
    return task.evaluate(subject, images, data, config, options or task.EvalOptions())
