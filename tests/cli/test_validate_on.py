"""A run that is validated on a holdout of its training split, and tested on the data's own."""

from __future__ import annotations

import json

import pytest

from kat.training.record.run_directory import read_data_record, read_settings
from tests.cli.commands import refused, run

pytestmark = pytest.mark.slow

QUIET = ("--no-progress",)


def _evaluated(run_folder, path, *options):
    assert run("eval", run_folder, "--json", path, "--device", "cpu", *options, *QUIET) == 0
    return json.loads(path.read_text())


def test_the_data_s_own_split_is_what_eval_measures(tmp_path, capsys):
    out = tmp_path / "run"
    train = (
        "train", "--config", "digits", "--epochs", 1, "--optim.warmup_epochs", 0, "--model.args",
        "{depth: 1}", "--limit_train_batches", 6, "--accelerator", "cpu", "--out", out, *QUIET,
    )  # fmt: skip
    assert run(*train, "--data.validate_on", "holdout") == 0
    printed = capsys.readouterr().out
    assert "142 of its 1437" in printed
    record = read_data_record(out)
    assert (record["train"]["images"], record["val"]["images"]) == (1295, 142)
    assert read_settings(out)["data"]["validate_on"] == "holdout"

    tested = _evaluated(out, tmp_path / "test.json")
    assert tested["images"] == 360
    (note,) = tested["notes"]
    assert note.startswith("note: ")
    assert capsys.readouterr().out.count(note) == 1
    validated = _evaluated(out, tmp_path / "val.json", "--data.validate_on", "holdout")
    assert (validated["images"], validated["notes"]) == (142, [])
    summary = json.loads((out / "summary.json").read_text())
    assert validated["top1"] == pytest.approx(summary["top1"])
    again = ("--resume", "true", "--epochs", 2)
    assert "1437" in refused(capsys, *train, *again, "--data.validate_on", "split")
    assert run(*train, *again) == 0
