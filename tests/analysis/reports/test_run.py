"""The pages of a run, of several, and of a grid: what they say, and what they say is missing."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
import torch

from kat.analysis.inspect.predictions import class_findings
from kat.analysis.reports.grids import write_ablation_report, write_comparison_report
from kat.analysis.reports.run import write_run_report
from kat.data import Batch
from kat.training.tasks.classification.report import interval
from tests.analysis import report_pages as pages
from tests.records import RECORD


def _headings(page):
    return re.findall(r"<h2 id=.*?>(.*?)</h2>", page.read_text())


def test_a_run_is_told_from_its_numbers_to_its_layers(tmp_path):
    path = tmp_path / "report.html"
    model = pages.small_kat()
    run = pages.findings(model)
    write_run_report(run, path)
    text = html.unescape(path.read_text())
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert facts == {
        "Validation top-1": "84.25 % (95 % CI 80 to 87)",
        "Validation top-5": "99.00 %",
        "Parameters": f"{parameters:,}",
        "FLOPs per image": f"{run.cost.flops / 1e6:.3f} M",
        "Best epoch": "2 of 2",
        "Training time": "1 h 02 min",
        "Images per second": "1,234",
        "Peak memory": "735.6 MB",
    }
    assert "<h1>kat_micro_patch2_8 on digits</h1>" in text
    assert pages.tables_of(path)[0][1:] == [
        ["out", "runs/small"], ["epochs", "2"], ["optim.lr", "0.002"]
    ]  # fmt: skip
    groups = [f"group {group}" for group in range(8)]
    titles = pages.titles_of(path)
    assert titles[0][-1].startswith("runs/small: kept,")
    assert titles[1] == 2 * groups
    assert titles[2] == 2 * 3 * groups
    summed, every, *_ = pages.tables_of(path)[2:]
    assert [row[:2] for row in summed[1:]] == [[f"blocks.0.mlp.act{n}", "8"] for n in (1, 2)]
    assert len(every) == 1 + 16


def test_a_classifier_has_its_confusion_its_classes_and_its_worst_mistakes(tmp_path):
    path = tmp_path / "report.html"
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    shown = [Batch(images, torch.arange(40) % 10, [])]
    model = pages.small_kat()
    found = class_findings(model, RECORD, shown, [str(number) for number in range(10)])
    write_run_report(pages.findings(model, predictions=found, activations=[]), path)
    text = html.unescape(path.read_text())
    accuracy = 100 * int(found.confusion.trace()) / 40
    (sentence,) = re.findall("Predictions</h2>\n<p>(.*?)</p>", text)
    assert sentence.startswith(f"{accuracy:.0f} %{interval(accuracy, 40)} of 40 validation")
    one, other = re.search("; (.*) and (.*) are confused most.", sentence).groups()
    both = found.confusion + found.confusion.T
    np.fill_diagonal(both, 0)
    assert both[int(one), int(other)] == both.max()
    by_class = next(t for t in pages.tables_of(path) if t[0][0] == "class")
    assert {row[0]: (row[1], row[2], row[4]) for row in by_class[1:]} == {
        row.name: ("4", f"{row.recall:.1f}", f"{row.f1:.1f}") for row in found.by_class
    }
    assert len(found.titles) == 6 + min(6, round(accuracy * 40 / 100))
    run = pages.findings(model, predictions="the classes differ", activations=[])
    write_run_report(run, path)
    assert "Predictions" in _headings(path)
    assert "the classes differ" in path.read_text()


@pytest.mark.parametrize(
    ("val_loss", "says"),
    [
        ([1.5, 0.9, 1.2], "overfits: from epoch 2 to 3, the training loss goes from 0.700 to"),
        ([1.5, 1.2, 1.22], "60.00 %. From epoch 1 to 3"),  # as good as at its lowest
    ],
)
def test_a_page_opens_with_the_course_of_the_training(tmp_path, val_loss, says):
    path, train_loss, top1 = tmp_path / "report.html", [1.6, 0.7, 0.4], [50.0, 70.0, 60.0]
    history = [
        {"epoch": 1 + i, "train_loss": train_loss[i], "val_loss": val_loss[i], "top1": top1[i],
         "best": i == 1}
        for i in range(3)
    ]  # fmt: skip
    run = pages.findings(pages.small_kat(), history=history, activations=[], failure="No memory.")
    write_run_report(run, path)
    (opening,) = re.findall("<h1>.*?</h1>\n<p>(.*?)</p>", path.read_text())
    assert opening.startswith("The run was")
    assert "No memory" in opening
    assert "70.00 %, in" in opening
    assert says in opening
    assert opening.endswith(f" to {val_loss[2]:.3f}.")


def test_two_classes_are_not_said_to_be_confused_most(tmp_path):
    path, model = tmp_path / "report.html", pages.small_kat()
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    found = class_findings(model, RECORD, [Batch(images, torch.arange(40) % 2, [])], ["0", "1"])
    assert 0 < found.confusion.trace() < 40
    write_run_report(pages.findings(model, predictions=found, activations=[]), path)
    assert "classified correctly.</p>" in path.read_text()


def test_sections_without_content_are_left_out(tmp_path):
    path = tmp_path / "report.html"
    missing = {"summary": None, "coefficients": {}, "stability": []}
    segmenting = [{"epoch": 1, "train_loss": 2.0, "val_loss": 1.0, "miou": 7.5, "best": 1}]
    run = pages.findings(pages.small_kat(), **missing, history=segmenting)
    write_run_report(run, path)
    assert _headings(path) == ["Learning curves", "Learned activations", "Symbolic reading"]
    assert "7.50 %, in" in path.read_text()
    write_run_report(pages.findings(pages.small_kat(), **missing, activations=[], history=[]), path)
    assert _headings(path) == []
    assert "not completed an" in path.read_text()
    assert "<script" not in path.read_text()


def test_a_comparison_has_costs_and_what_differs(tmp_path):
    path = tmp_path / "report.html"
    rows = [row for row in pages.grid_rows() if row["seed"] == 0]
    names = [row["cell"] for row in rows]
    kat = {"name": "kat_micro", "args": {"num_groups": 4}}
    models = {names[0]: kat, names[1]: {"name": "vit_micro"}}
    settings = {name: {"epochs": 2, "model": model} for name, model in models.items()}
    histories = {row["cell"]: pages.history(row["top1"]) for row in rows}
    write_comparison_report(rows, histories, settings, path)
    results, differing = pages.tables_of(path)[:2]
    assert {"84.00", "4,000", "2 of 2", "1 GB"} < {*results[1]}
    assert differing == [
        ["setting", *names],
        ["model.name", "kat_micro", "vit_micro"],
        ["model.args.num_groups", "4", "-"],
    ]
    curves, _ = pages.titles_of(path)
    assert [title.split(",")[0] for title in curves[::2]][-2:] == names
    write_comparison_report(rows, histories, {name: {} for name in names}, path)
    assert "Settings" not in _headings(path)


def test_grids_have_a_section_each_and_leave_runs_out_that_are_gone(tmp_path):
    path = tmp_path / "report.html"
    rows = pages.grid_rows()
    rows[4] = {**rows[4], "status": "diverged", "top1": None}
    histories = {row["run"]: pages.history(80.0) for row in rows}
    first = dict(list(histories.items())[:2])
    grids = {"models": rows, "more": pages.grid_rows()}
    write_ablation_report(grids, {"models": first, "more": histories}, path)
    sections = ("Cells", "Accuracy against cost", "Learning curves")
    assert _headings(path) == [f"{s}: {grid}" for grid in ("models", "more") for s in sections]
    text = path.read_text()
    table = pages.tables_of(path)[0]
    assert table[1][:3] == ["KAT", "84.70 ± 1.88", "-"]
    assert table[2][3] == "2 of 3"
    assert text.count('<tr class="bad">') == 1
    assert "3 of 5" in text
    assert "KAT (2 runs)" in pages.texts_of(path)[2]


def test_costs_of_a_tested_grid_are_shown_against_its_test(tmp_path):
    path = tmp_path / "report.html"
    write_ablation_report({"small": pages.rows_with_test()}, {"small": {}}, path)
    text = path.read_text()
    assert "The test top-1" in text
    assert "alidation top-1" not in text
    assert pages.texts_of(path)[1].count("test top-1 (%)") == 4
    assert [title[:10] for title in pages.titles_of(path)[1][:2]] == ["KAT: 74.00", "ViT: 73.25"]


def test_a_run_that_diverged_does_not_end_the_curve_of_its_cell(tmp_path):
    path = tmp_path / "report.html"
    rows = pages.grid_rows()[:3]
    rows[1] = {**rows[1], "status": "diverged", "top1": None}
    histories = {row["run"]: pages.history(80.0 + row["seed"]) for row in rows}
    histories[rows[1]["run"]] = histories[rows[1]["run"]][:1]
    write_ablation_report({"models": rows}, {"models": histories}, path)
    assert "left out" not in path.read_text()
    assert "KAT (2 runs)" in pages.texts_of(path)[2]
