"""Detection and segmentation as a user goes through them: train, evaluate, predict."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from kat.cli import train
from kat.cli.training_settings import TrainingParser, parse_training
from kat.data import DataConfig, open_split
from kat.models import load_model
from kat.models.dense import SlidingWindowConfig
from kat.training import evaluate
from kat.training.tasks.detection import find_objects
from kat.training.tasks.registry import TASKS
from kat.training.tasks.segmentation import find_classes
from tests.analysis.report_pages import charts_of, tables_of
from tests.cli.commands import QUICK, refused, run
from tests.data.dense.coco_files import instances, write_coco

pytestmark = pytest.mark.slow

MODELS = {
    "detection": (
        "kat_det_micro",
        "{depth: 1, embed_dim: 32, num_heads: 2, global_blocks: [0], channels: 32,"
        " rcnn: {box_score_thresh: 0.0}}",
    ),
    "segmentation": (
        "kat_upernet_micro",
        "{depth: 4, global_blocks: [3], embed_dim: 32, num_heads: 2, channels: 16, auxiliary: 8,"
        " norm: layer}",
    ),
}


@pytest.fixture(scope="module")
def runs(items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task, (name, args) in MODELS.items():
        kind = "coco" if task == "detection" else "ade20k"
        assert run(
            "train", "--config", f"items_{task}", "--model.name", name, "--model.args", args,
            "--data.name", f"{kind}:{items}", "--data.image_size", 64, "--data.batch_size", 4,
            "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK, "--out", folder / task,
        ) == 0  # fmt: skip
    return folder


def pictures(items, count=2):
    return sorted((items / "images" / "validation").iterdir())[:count]


def test_help_names_the_three_kinds_of_models():
    words = " ".join(train.make_parser().format_help().split())
    assert "Trains a classifier, a detector or a segmentation model" in words


def test_training_says_what_it_reached(items, tmp_path, capsys):
    name, args = MODELS["segmentation"]
    options = (
        "--config", "items_segmentation", "--model.name", name, "--model.args", args,
        "--data.name", f"ade20k:{items}", "--data.image_size", 64, "--data.batch_size", 4,
        "--epochs", 1, "--optim.warmup_epochs", 0, *QUICK, "--out", tmp_path / "run",
    )  # fmt: skip
    assert run("train", *options, "--dry-run") == 0
    assert "FLOPs per image" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert run("train", *options) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if not line.startswith("note: ")]
    assert "mIoU" in lines[0]
    assert lines[-1].startswith("best mIoU ")


def test_a_detector_is_evaluated_and_its_results_are_coco_s(items, runs, tmp_path, capsys):
    out = tmp_path / "report"
    assert run("eval", runs / "detection", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "box AP" in printed
    assert "mask AP" in printed
    truth = COCO(str(items / "annotations" / "instances_validation.json"))
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        results = json.loads((out / f"results_{kind}.json").read_text())
        assert set(results[0]) == {"image_id", "category_id", "score", field}
        loaded = truth.loadRes(results)  # COCO's own reader takes them
        assert set(loaded.getImgIds()) <= set(truth.getImgIds())
    with (out / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"class", "box_ap", "mask_ap"}


def test_pycocotools_cannot_read_results_of_nothing_and_the_evaluation_says_so(items, runs):
    model, record = load_model(runs / "detection")
    model.roi_heads.score_thresh = 1.0
    found = evaluate(model, record, DataConfig(name=f"coco:{items}"))
    assert found.documents == {"results_bbox": [], "results_segm": []}
    assert found.notes == [
        "note: no object was found; pycocotools cannot read files of results without one"
    ]
    with pytest.raises(IndexError):
        COCO(str(items / "annotations" / "instances_validation.json")).loadRes([])


@pytest.mark.parametrize("task", MODELS)
def test_classes_in_another_order_go_by_their_names(task, items, runs, tmp_path):
    """The set is the same, but the ids of its categories and the values of its masks are turned."""
    turned = shutil.copytree(items, tmp_path / "turned")
    file = turned / "annotations" / "instances_validation.json"
    content = json.loads(file.read_text())
    for row in content["categories"]:
        row["id"] = 11 - row["id"]
    for row in content["annotations"]:
        row["category_id"] = 11 - row["category_id"]
    file.write_text(json.dumps(content))
    table = turned / "objectInfo150.txt"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(rows)]) + "\n")
    for path in (turned / "annotations" / "validation").iterdir():
        Image.fromarray(12 - np.asarray(Image.open(path))).save(path)
    kind = "coco" if task == "detection" else "ade20k"
    model, record = load_model(runs / task)
    plain, other = (
        evaluate(model, record, DataConfig(name=f"{kind}:{root}")) for root in (items, turned)
    )
    assert other.metrics == pytest.approx(plain.metrics, nan_ok=True)
    assert other.classes == plain.classes[::-1]
    theirs = {name: figures for name, *figures in other.per_class.rows}
    assert theirs.keys() == {name for name, *_ in plain.per_class.rows}
    for name, *figures in plain.per_class.rows:
        assert theirs[name] == pytest.approx(figures, nan_ok=True)
    assert "another order" in other.notes[0]
    if task == "detection":
        found = [one.documents["results_bbox"] for one in (plain, other)]
        ids = [[row["category_id"] for row in rows] for rows in found]
        assert ids[1] == [11 - number for number in ids[0]]


def test_a_segmentation_model_is_evaluated_as_asked(items, runs, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(
        "eval", runs / "segmentation", "--out", out, "--window", 48,
        "--scales", "[0.75,1.0]", "--flip", "--csv", tmp_path / "all.csv",
    ) == 0  # fmt: skip
    assert "mIoU" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "confusion.csv").open(newline="") as file:
        counts = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=int)
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    iou = right[union > 0] / union[union > 0]
    assert metrics["miou"] == pytest.approx(100 * iou.mean())
    with (tmp_path / "all.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["miou"]) == pytest.approx(metrics["miou"])


def test_both_tasks_in_one_call(runs, capsys):
    assert run("eval", runs / "detection", runs / "segmentation") == 0
    printed = capsys.readouterr().out
    assert "box AP" in printed
    assert "mIoU" in printed


def test_objects_are_drawn_and_written(items, runs, tmp_path, capsys):
    paths = pictures(items)
    assert run(
        "predict", *paths, "--checkpoint", runs / "detection", "--threshold", 0.0,
        "--out", tmp_path / "pictures", "--json", tmp_path / "answers.json",
    ) == 0  # fmt: skip
    assert "score" in capsys.readouterr().out
    answers = json.loads((tmp_path / "answers.json").read_text())
    for path, answer in zip(paths, answers, strict=True):
        drawn = np.asarray(Image.open(tmp_path / "pictures" / path.name))
        plain = np.asarray(Image.open(path)).repeat(7, axis=0).repeat(7, axis=1)
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
        found = answer["objects"]
        assert [one["score"] for one in found] == sorted((o["score"] for o in found), reverse=True)
        assert coco_mask.decode(found[0]["segmentation"]).shape == (64, 64)


def test_classes_of_pixels_are_drawn_and_written(items, runs, tmp_path):
    (path,) = pictures(items, 1)
    wide = tmp_path / "wide.png"
    Image.open(path).resize((100, 64)).save(wide)
    assert run(
        "predict", wide, "--checkpoint", runs / "segmentation", "--out", tmp_path / "pictures",
        "--json", tmp_path / "answers.json",
    ) == 0  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "pictures" / "wide_mask.png"))
    assert mask.shape == (64, 100)
    (answer,) = json.loads((tmp_path / "answers.json").read_text())
    shares = [entry["share"] for entry in answer["classes"]]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(np.bincount(mask.ravel()).max() / mask.size)


def said_of(path, checkpoint, folder, *options):
    """The answer of ``kat predict`` on an image, and the mask where there is one."""
    written, pictures = folder / "answers.json", folder / "pictures"
    assert run(
        "predict", path, "--checkpoint", checkpoint, "--json", written, "--out", pictures,
        "--trust", *options,
    ) == 0  # fmt: skip
    (answer,) = json.loads(written.read_text())
    mask = pictures / f"{path.stem}_mask.png"
    return answer, np.asarray(Image.open(mask)) if mask.is_file() else None


def test_a_segmentation_model_sees_images_of_another_size(items, runs, tmp_path):
    path, checkpoint = pictures(items, 1)[0], runs / "segmentation"
    model, record = load_model(checkpoint)
    larger = replace(record, input_size=(3, 96, 96))
    _, mask = said_of(path, checkpoint, tmp_path, "--image-size", 96)
    expected = find_classes(model, larger, Image.open(path), SlidingWindowConfig())
    assert np.array_equal(mask, expected.numpy())
    out = tmp_path / "metrics.json"
    assert run("eval", checkpoint, "--image-size", 96, "--json", out) == 0
    found = evaluate(model, larger, DataConfig(name=f"ade20k:{items}"))
    assert json.loads(out.read_text())["loss"] == pytest.approx(found.metrics["loss"], rel=1e-5)


def test_a_detector_sees_images_of_another_size(items, runs, tmp_path):
    path, checkpoint = pictures(items, 1)[0], runs / "detection"
    model, record = load_model(checkpoint)
    model.transform.min_size, model.transform.max_size = (96,), 96
    answer, _ = said_of(path, checkpoint, tmp_path, "--image-size", 96, "--threshold", 0)
    expected = find_objects(model, record, Image.open(path), 0.0)
    assert [one["box"] for one in answer["objects"]] == expected["boxes"].tolist()
    assert run(
        "eval", checkpoint, "--image-size", 96, "--out", tmp_path / "report"
    ) == 0  # fmt: skip
    found = evaluate(model, record, DataConfig(name=f"coco:{items}"))
    results = json.loads((tmp_path / "report" / "results_bbox.json").read_text())
    expected = found.documents["results_bbox"]
    assert [one["bbox"] for one in results] == [one["bbox"] for one in expected]


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_an_exported_segmentation_model_sees_windows_of_its_size(ending, items, runs, tmp_path):
    checkpoint, exported = runs / "segmentation", tmp_path / f"exported.{ending}"
    assert run("export", checkpoint, "--out", exported) == 0
    figures = []
    for path, options in ((exported, ()), (checkpoint, ("--window", 64))):
        out = tmp_path / "metrics.json"
        assert run("eval", path, "--data.name", f"ade20k:{items}", "--json", out, "--trust",
                   *options) == 0  # fmt: skip
        metrics = json.loads(out.read_text())
        figures.append([metrics[name] for name in ("miou", "pixel_accuracy", "loss")])
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    wide = tmp_path / "wide.png"
    Image.open(pictures(items, 1)[0]).resize((150, 80)).save(wide)
    _, mask = said_of(wide, exported, tmp_path)
    _, own = said_of(wide, checkpoint, tmp_path, "--window", 64)
    assert (mask == own).mean() > 0.999
    _, mask = said_of(wide, exported, tmp_path, "--scales", "[0.5]")  # smaller than a window
    assert mask.shape == (80, 150)


def test_an_exported_detector_finds_the_same(items, runs, tmp_path, capfd):
    checkpoint, exported = runs / "detection", tmp_path / "exported.onnx"
    assert run("export", checkpoint, "--out", exported) == 0
    captured = capfd.readouterr()
    assert "one image; detections within" in captured.out
    assert captured.err == ""
    found = []
    for path in (exported, checkpoint):
        report = tmp_path / "report"
        assert run("eval", path, "--data.name", f"coco:{items}", "--out", report
                   ) == 0  # fmt: skip
        found.append(json.loads((report / "results_bbox.json").read_text()))
        shutil.rmtree(report)
    assert len(found[0]) == len(found[1]) > 0
    for got, want in zip(*found, strict=True):
        assert got["bbox"] == pytest.approx(want["bbox"], abs=1e-2)
        assert (got["image_id"], got["category_id"]) == (want["image_id"], want["category_id"])
    large = tmp_path / "large.png"
    Image.open(pictures(items, 1)[0]).resize((100, 100)).save(large)
    threshold = found[0][len(found[0]) // 2]["score"]
    answer, _ = said_of(large, exported, tmp_path, "--threshold", threshold)
    expected, _ = said_of(large, checkpoint, tmp_path, "--threshold", threshold)
    assert len(answer["objects"]) == len(expected["objects"])
    for got, want in zip(answer["objects"], expected["objects"], strict=True):
        assert got["score"] == pytest.approx(want["score"], abs=1e-4)
        masks = [coco_mask.decode(one["segmentation"]) for one in (got, want)]
        assert masks[0].shape == (100, 100)
        assert (masks[0] != masks[1]).mean() < 0.01
    wide = tmp_path / "wide.png"
    Image.open(large).resize((150, 80)).save(wide)
    answer, _ = said_of(wide, exported, tmp_path, "--threshold", 0)
    boxes = np.array([one["box"] for one in answer["objects"]])
    assert (boxes >= 0).all()
    assert (boxes <= [150, 80, 150, 80]).all()
    line = refused(capfd, "eval", exported, "--data.name", f"coco:{items}",
                   "--image-size", 96)  # fmt: skip
    assert "64 x 64 pixels, got 3 x 96 x 96" in line


@pytest.mark.parametrize(("task", "ending"), [("detection", "pt2"), ("segmentation", "onnx")])
def test_an_exported_backbone_answers_nothing(task, ending, items, runs, tmp_path, capsys):
    exported = tmp_path / f"backbone.{ending}"
    assert run("export", runs / task, "--out", exported, "--backbone") == 0
    assert "any batch size; features within" in capsys.readouterr().out
    predict = ("predict", *pictures(items, 1), "--checkpoint", exported)
    for command in (("eval", exported, "--data", f"coco:{items}"), predict):
        line = refused(capsys, *command, "--trust")
        assert "is a backbone without heads" in line


def test_what_cannot_be_exported_is_refused(runs, tmp_path, capsys):
    detector = runs / "detection"
    for file, option in (("d.pt2", ()), ("d.onnx", ("--int8",))):
        line = refused(capsys, "export", detector, "--out", tmp_path / file, *option)
        assert "can be exported to .onnx only, without int8" in line
    line = refused(capsys, "export", detector, "--out", tmp_path / "d.onnx", "--dynamic-size")
    assert "can be exported for one image size only" in line
    line = refused(capsys, "export", detector, "--out", tmp_path / "d", "--backbone")
    assert "--backbone has no effect with --format safetensors" in line
    line = refused(
        capsys, "export", runs / "segmentation", "--out", tmp_path / "model.pt2", "--dynamic-size"
    )
    assert "can be exported for one image size only" in line
    assert not list(tmp_path.iterdir())


UNUSED = [
    ("eval", "detection", "--window", 32),
    ("eval", "detection", "--flip", None),
    ("eval", "segmentation", "--mean", "[0.5,0.5,0.5]"),
    ("eval", "segmentation", "--crop-pct", 0.9),
    ("eval", "detection", "--interpolation", "bicubic"),
    ("predict", "segmentation", "--threshold", 0.3),
    ("predict", "detection", "--scales", "[1.0,2.0]"),
    ("predict", "detection", "--batch-size", 2),
]


@pytest.mark.parametrize(("command", "task", "option", "value"), UNUSED)
def test_options_without_effect_are_refused(command, task, option, value, items, runs, capsys):
    model = [*pictures(items, 1), "--checkpoint"] if command == "predict" else []
    options = [option] if value is None else [option, value]
    line = refused(capsys, command, *model, runs / task, *options)
    assert f"{option} has no effect on a model for {task}" in line


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_recipes_for_coco_do_without_its_boxes_of_no_height(size, tmp_path):
    content = instances()
    content["annotations"][1]["bbox"][3] = 0
    write_coco(tmp_path, content)
    given = ["--config", f"coco_kat_det_{size}", "--data.name", f"coco:{tmp_path}"]
    data = open_split(parse_training(TrainingParser(), given)[0].data, "train")
    assert "1 boxes of zero area, first annotation 12 " in data.note
    assert data[1][1]["labels"].tolist() == [1, 2]


def test_a_run_without_its_wrong_annotations_is_evaluated_without_them(items, tmp_path, capsys):
    data, out = tmp_path / "items", tmp_path / "run"
    shutil.copytree(items, data)
    for split in ("training", "validation"):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["annotations"][0]["bbox"] = [0, 0, 0, 0]
        file.write_text(json.dumps(content))
    name, args = MODELS["detection"]
    assert run(
        "train", "--config", "items_detection", "--model.name", name, "--model.args", args,
        "--data.name", f"coco:{data}", "--data.image_size", 64, "--data.batch_size", 4,
        "--data.bad_annotations", "skip", "--epochs", 1, *QUICK, "--out", out,
    ) == 0  # fmt: skip
    printed = capsys.readouterr().out
    for split in ("training", "validation"):
        assert f"instances_{split}.json: 1 boxes of zero area, first annotation 1 " in printed
    assert run("eval", out, "--json", tmp_path / "found.json") == 0
    note = f"{data}/annotations/instances_validation.json: 1 boxes of zero area, first annotation 1"
    assert capsys.readouterr().out.startswith(note)
    (said,) = json.loads((tmp_path / "found.json").read_text())["notes"]
    assert said.startswith(note)
    line = refused(capsys, "eval", out, "--data.bad_annotations", "fail")
    assert "boxes of zero area" in line


def test_what_does_not_fit_is_refused(items, runs, tmp_path, capsys):
    path = pictures(items, 1)[0]
    detector, segmenter = runs / "detection", runs / "segmentation"
    line = refused(capsys, "eval", detector, "--data.name", f"ade20k:{items}")
    assert "is data for segmentation, but" in line
    line = refused(capsys, "eval", segmenter, "--stride", 8)
    assert "stride must be" in line
    line = refused(capsys, "predict", path, "--checkpoint", segmenter, "--scales", "[0]")
    assert "scales must be positive" in line
    line = refused(capsys, "predict", path, "--checkpoint", segmenter, "--out", path.parent)
    assert "would overwrite" in line
    line = refused(capsys, "predict", path, "--checkpoint", detector, "--threshold", 50)
    assert "threshold must be at most 1, got 50" in line


HEADLINES = {"detection": "box AP", "segmentation": "mIoU"}


@pytest.mark.parametrize("task", MODELS)
def test_a_run_has_a_page_of_its_own_scores(runs, tmp_path, task):
    page = tmp_path / "page.html"
    assert run("report", runs / task, "--images", 3, "--out", page) == 0
    text = page.read_text()
    summary = json.loads((runs / task / "summary.json").read_text())
    for score in TASKS[task].metrics:
        fact = f"<dt>Validation {score.label}</dt><dd>{summary[score.name]:.2f} %</dd>"
        assert fact in text
    first = charts_of(page)[0]
    assert first["layout"]["yaxis"]["title"]["text"] == f"validation {HEADLINES[task]} (%)"
    assert "inputs over 3 validation images" in text
    bars = [t for chart in charts_of(page) for t in chart["data"] if t["type"] == "bar"]
    rationals = 2 * {"detection": 1, "segmentation": 4}[task]
    assert len(bars) == rationals
    assert re.search(r"<h2[^>]*>Attention</h2>\s*<p>KAT\w+ has no attention to draw", text)


def test_a_score_that_is_nothing_is_left_out_of_the_page(runs, tmp_path):
    folder = shutil.copytree(runs / "detection", tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "mask_ap": None}))
    assert run("report", folder, "--images", 1, "--out", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert "<dt>Validation box AP</dt>" in text
    assert "<dt>Validation mask AP</dt>" not in text


@pytest.mark.parametrize("task", MODELS)
def test_costs_are_against_the_task_s_first_score(runs, tmp_path, capsys, task):
    figure, page = tmp_path / "cost.svg", tmp_path / "page.html"
    copied = shutil.copytree(runs / task, tmp_path / "other")
    assert run("plot", "cost", runs / task, copied, "--out", figure) == 0
    assert f"<!-- {HEADLINES[task]} (%) -->" in figure.read_text()
    assert run("report", runs / task, copied, "--out", page) == 0
    summary = json.loads((copied / "summary.json").read_text())
    value = f"{summary[TASKS[task].metrics[0].name]:.2f}"
    assert [row[1] for row in tables_of(page)[0]] == [f"{HEADLINES[task]} (%)", value, value]


def test_runs_of_different_tasks_are_not_compared(runs, tmp_path, capsys):
    both = (runs / "detection", runs / "segmentation", "--out")
    says = (
        "must be of one task and have its metric: 'detection' has box AP, 'segmentation' has mIoU"
    )
    assert says in refused(capsys, "plot", "cost", *both, tmp_path / "c.svg")
    assert says in refused(capsys, "report", *both, tmp_path / "c.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", MODELS)
def test_activations_are_over_the_run_s_images_and_attention_is_refused(
    items, runs, tmp_path, capsys, task
):
    out = ("--out", tmp_path / "a.svg")
    assert run("plot", "activations", runs / task, "--images", 2, *out) == 0
    assert "in gray the inputs of validation images" in capsys.readouterr().out
    other = f"{'ade20k' if task == 'detection' else 'coco'}:{items}"
    line = refused(capsys, "plot", "activations", runs / task, "--data", other, *out)
    assert "is data for" in line
    line = refused(capsys, "plot", "attention", runs / task, *out)
    assert "has no attention to draw" in line
