"""Evaluate a model of any task on a dataset; test a run on the data's own validation split."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from kat.data import DataConfig, ImageDataset, open_split
from kat.documents import read_json, write_json
from kat.models import ModelRecord, load_model
from kat.settings import check_ranges
from kat.training.evaluation.run_data import data_to_test
from kat.training.record.run_directory import BEST, LAST, TEST
from kat.training.tasks.classes import TASK_CLASSES
from kat.training.tasks.evaluation import EvalConfig, EvalJob, Evaluation, Subject, device_of
from kat.training.tasks.match import check_task
from kat.training.tasks.registry import TASKS, task_options

_WEIGHTS = {"test": BEST, "test_last": LAST}
"""The checkpoints that are tested, by the prefix of their metrics."""
_METRICS = tuple(m.name for m in TASKS[ImageDataset.task].eval_metrics if m.in_table)
TEST_COLUMNS = tuple(f"{prefix}_{name}" for prefix, name in product(_WEIGHTS, _METRICS))
"""The names of the results of a test, e.g. ``test_top1``, ``test_last_ece``."""


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
        options: an instance of the options that the task declares.
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
    data, config = check_ranges(data, "data."), check_ranges(config)
    images = open_split(data, "val")
    check_task(model, images, (str(source), data.name))
    # Moved in torch.inference_mode, as the tasks run, its weights could not be trained afterwards.
    subject = Subject(model.to(device_of(model, config)), record, source)
    training = [module for module in model.modules() if module.training]
    try:
        options = options or task_options(images.task, "evaluate", {})
        return TASK_CLASSES[images.task].evaluate(EvalJob(subject, images, data, config, options))
    finally:
        for module in training:
            module.training = True


def write_test(out: Path, device: str) -> None:
    """Evaluate the best and the last weights of a finished run, and write test.json.

    Args:
        out: the run directory, of a run with ``data.validate_on=holdout``.
        device: as in :class:`EvalConfig`.

    Raises:
        InputError: the weights or the data cannot be read.
    """
    settings, _ = data_to_test(out, {})
    data, config = DataConfig(**settings), EvalConfig(device=device, progress=False)
    results: dict[str, Any] = {}
    for prefix, name in _WEIGHTS.items():
        model, record = load_model(out / name)
        found = evaluate(model, record, data, config, source=out / name).to_dict()
        results |= {f"{prefix}_{metric}": found[metric] for metric in _METRICS}
    write_json(out / TEST, results)


def read_test(out: Path) -> dict[str, Any]:
    """Return the results of :func:`write_test`; empty if there are none."""
    path = out / TEST
    results = read_json(path) if path.is_file() else {}
    return {name: results[name] for name in TEST_COLUMNS if name in results}
