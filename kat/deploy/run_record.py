"""The record of a run directory about the training of its best weights."""

from __future__ import annotations

from pathlib import Path

from kat.documents import read_json
from kat.models import TrainingRecord
from kat.models.checkpoints.shipped import model_path
from kat.training import read_settings
from kat.training.record.run_directory import SETTINGS, SUMMARY


def training_record(path: str | Path) -> TrainingRecord:
    """Return the settings of a run and the metrics of its best weights.

    The record of any other path is empty.

    Args:
        path: a run directory, or any other place of a model.

    Examples:
        >>> from kat.deploy import training_record
        >>> training_record("runs/digits").settings["model"]["name"]
        'kat_micro_patch2_8'
    """
    path = model_path(path)
    if not (path / SETTINGS).is_file():
        return TrainingRecord()
    summary = path / SUMMARY
    return TrainingRecord(read_settings(path), read_json(summary) if summary.is_file() else {})
