"""Test a run: its best and its last weights, once, on the data's own validation split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kat.data import DataConfig
from kat.documents import read_json
from kat.files import write_text
from kat.models import load_model
from kat.training.evaluation.evaluate import evaluate
from kat.training.evaluation.run_data import data_to_test
from kat.training.run_directory import BEST, LAST, TEST
from kat.training.tasks.classification.task import Classification
from kat.training.tasks.evaluation import EvalConfig

_WEIGHTS = {"test": BEST, "test_last": LAST}
"""The checkpoints that are tested, by the prefix of their metrics."""
_METRICS = tuple(metric.name for metric in Classification.eval_metrics if metric.in_table)
TEST_COLUMNS = tuple(f"{prefix}_{name}" for prefix in _WEIGHTS for name in _METRICS)
"""The names of the results of a test, e.g. ``test_top1``, ``test_last_ece``."""


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
    write_text(out / TEST, json.dumps(results, indent=2) + "\n")


def read_test(out: Path) -> dict[str, Any]:
    """Return the results of :func:`write_test`; empty if there are none."""
    path = out / TEST
    results = read_json(path) if path.is_file() else {}
    return {name: results[name] for name in TEST_COLUMNS if name in results}
