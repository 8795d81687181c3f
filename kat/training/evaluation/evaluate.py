"""Evaluate a model of any task on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from kat.data import DataConfig, open_split
from kat.models import ModelRecord
from kat.settings import check_ranges
from kat.training.tasks.evaluation import EvalConfig, Evaluation, Subject, device_of
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
    """Run a model over the validation split of a dataset; every readable image counts once.

    Args:
        model: the model; it is moved to the device, and in evaluation mode while it runs.
        record: record of the model, with its classes and preprocessing.
        data: dataset and settings of data loading; its preprocessing settings are not used.
        config: settings of the evaluation.
        options: options of the task, an instance of its ``EvalOptions``.
        source: path of the model, or a name for it in error messages.

    Raises:
        InputError: a setting is out of range, the data is for another task or has other classes, no
            image can be read, or logits are not finite.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data import DataConfig
        >>> from kat.models import load_model
        >>> from kat.training import EvalConfig, evaluate
        >>> model, record = load_model(Path("runs/digits"))
        >>> settings = EvalConfig(device="cpu", progress=False)
        >>> result = evaluate(model, record, DataConfig("digits"), settings)
        >>> result.images
        360
    """
    config = config or EvalConfig()
    data, config = check_ranges(data, "data"), check_ranges(config)
    images = open_split(data, "val")
    check_task(model, images, (str(source), data.name))
    task = TASKS[images.task]
    # Moved in torch.inference_mode, as the tasks run, its weights could not be trained afterwards.
    subject = Subject(model.to(device_of(model, config)), record, source)
    training = [module for module in model.modules() if module.training]
    try:
        return task.evaluate(subject, images, data, config, options or task.EvalOptions())
    finally:
        for module in training:
            module.training = True
