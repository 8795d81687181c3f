"""The record in an exported file."""

from __future__ import annotations

import json

from kat.deploy import ExportRecord
from tests.models.small import make_record


def test_files_without_a_task_are_classifiers():
    record = ExportRecord(make_record(), None, "segmentation")
    assert ExportRecord.from_json(record.to_json(), "new") == record
    run = {"data": {"name": "folder:x", "holdout": 0.1, "validate_on": "split"}, "seed": 3}
    assert ExportRecord.from_json(record._replace(run=run).to_json(), "new").run == run
    older = {name: v for name, v in json.loads(record.to_json()).items() if name != "task"}
    assert ExportRecord.from_json(json.dumps(older), "old").task == "classification"
