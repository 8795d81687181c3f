"""``kat report`` and ``kat plot`` of detectors and segmentation models."""

from __future__ import annotations

import json

import pytest

from kat.training.tasks.registry import TASKS
from tests.analysis.report_pages import tables_of, texts_of
from tests.cli.commands import refused, run
from tests.cli.dense.small_dense import MODELS
from tests.marks import most_at_night

pytestmark = pytest.mark.slow


HEADLINES = {"detection": "box AP", "segmentation": "mIoU"}


@pytest.mark.parametrize("task", most_at_night(MODELS, ["segmentation"]))
def test_a_run_has_a_page_of_its_own_scores(runs, tmp_path, task):
    page = tmp_path / "page.html"
    assert run("report", runs / task, "--images", 3, "--out", page) == 0
    text = page.read_text()
    summary = json.loads((runs / task / "summary.json").read_text())
    for score in TASKS[task].metrics:
        fact = f"<dt>Validation {score.label}</dt><dd>{summary[score.name]:.2f} %</dd>"
        assert fact in text
    assert f"validation {HEADLINES[task]} (%)" in texts_of(page)[0]
    assert "Predictions</h2>" in text
    assert f"<p>The best {HEADLINES[task]} is " in text
    assert f"3 images: {HEADLINES[task]}" in text
    assert "the ground truth" in text
    metrics = {"detection": ["box AP", "mask AP"], "segmentation": ["IoU"]}[task]
    assert ["class", *metrics] in [table[0] for table in tables_of(page)]
    assert "Attention</h2>" not in text


def test_runs_of_different_tasks_are_not_compared(runs, tmp_path, capsys):
    both = runs / "detection", runs / "segmentation"
    for command, file in ((("plot", "cost"), "c.svg"), (("report",), "c.html")):
        assert "'segmentation' has mIoU" in refused(
            capsys, *command, *both, "--out", tmp_path / file
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", MODELS)
def test_activations_are_over_the_run_s_images_and_attention_is_refused(
    items, runs, tmp_path, capsys, task
):
    out = ("--out", tmp_path / "a.svg")
    assert run("plot", "activations", runs / task, "--images", 2, *out) == 0
    assert "validation images" in capsys.readouterr().out
    other = f"{'ade20k' if task == 'detection' else 'coco'}:{items}"
    for command, says in (("activations", "is data for"), ("attention", "has no attention")):
        data = ("--data", other) * (command == "activations")
        assert says in refused(capsys, "plot", command, runs / task, *data, *out)
