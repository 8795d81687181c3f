"""Detection: its metrics against COCO's own evaluator, its training, what is refused."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kat.data import DataConfig
from kat.data.dense import open_coco
from kat.errors import InputError
from kat.models import load_model
from kat.training import TrainConfig, evaluate, train
from kat.training.config import DetectionAugmentConfig, ModelConfig, OptimConfig
from kat.training.tasks.detection import Detection, DetectionMetrics, coco_results
from tests.records import RECORD

pytestmark = pytest.mark.slow

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "global_blocks": [0], "channels": 32}
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", None, None, "ar")
"""Our names of what COCO's evaluator puts out, in its order."""


def settings(items, out, **more):
    return TrainConfig(
        out=str(out),
        epochs=1,
        progress=False,
        model=ModelConfig(name="kat_det_micro", args=SMALL),
        data=DataConfig(name=f"coco:{items}", image_size=64, batch_size=4),
        detection=DetectionAugmentConfig(scale=(0.8, 1.2)),
        **more,
    )


def noisy(target, generator, classes):
    """Predictions that are right, nearly right and wrong by turns: figures between 0 and 100."""
    count = len(target["labels"])
    shift = torch.randint(-3, 4, (count, 2), generator=generator)
    masks = target["masks"].clone()
    for mask, offset in zip(masks, shift.tolist(), strict=True):
        mask.copy_(mask.roll(tuple(offset), (0, 1)))
    boxes = target["boxes"] + shift.flip(1).repeat(1, 2)
    wrong = torch.rand(count, generator=generator) < 0.2
    return {
        "boxes": torch.cat([boxes, boxes[:1] + 5.0]),
        "labels": torch.cat([(target["labels"] + wrong) % classes, target["labels"][:1]]),
        "scores": torch.rand(count + min(count, 1), generator=generator),
        "masks": torch.cat([masks, masks[:1]]).bool(),
    }


def strips(root):
    """Thin objects that lie across, some beyond the border, some of no area; crowds; no objects."""
    rng = np.random.default_rng(0)
    height, width = 120, 160
    images, annotations = [], []
    for number in range(1, 11):
        name = f"{number}.png"
        images.append({"id": 7 * number, "file_name": name, "height": height, "width": width})
        for place in range(number % 4):
            corner, across = np.maximum(rng.uniform(-30, 60, 2), -0.9), rng.uniform(8, 90, 2)
            left, top = corner
            right, bottom = np.minimum(corner + across, [width + 0.9, height + 0.9])
            thick = min(rng.uniform(3, 40), across[0] / 2)
            outline = [left, top, left + thick, top, right, bottom, right - thick, bottom]
            crowd = {"size": [height, width], "counts": [0, 30 * height, (width - 30) * height]}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * number,
                    "category_id": int(rng.choice([3, 5])),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": [0.0, 50.0, 1500.0, 20000.0][rng.integers(4)],
                    "iscrowd": int(place == 2),
                    "segmentation": crowd if place == 2 else [outline],
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "pole"}, {"id": 3, "name": "wire"}],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "val.json").write_text(json.dumps(content))
    (root / "images").mkdir()
    for image in images:
        Image.new("RGB", (width, height)).save(root / "images" / image["file_name"])


def official(truth, results, kind):
    """The twelve figures of COCO's evaluator."""
    return evaluated(truth, results, kind).stats


def evaluated(truth, results, kind):
    """COCO's evaluator, done."""
    evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    return evaluation


@pytest.mark.parametrize("kind_of_data", ["items", "strips"])
def test_figures_are_those_of_pycocotools(kind_of_data, items, tmp_path, capsys):
    if kind_of_data == "strips":
        strips(tmp_path)
    data = open_coco(items if kind_of_data == "items" else tmp_path, "val")
    generator, metrics = torch.Generator().manual_seed(0), DetectionMetrics()
    results = {"bbox": [], "segm": []}
    for index in range(len(data)):
        _, target = data[index]
        found = noisy(target, generator, len(data.classes))
        if index % 4 == 3:
            found = {name: value[:0] for name, value in found.items()}
        metrics.update([found], [target])
        for kind, rows in coco_results(found, int(target["image_id"]), data).items():
            results[kind] += rows
    truth = COCO(data.annotations_file)
    given = metrics.compute()
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        for figure, value in zip(FIGURES, official(truth, results[name], name), strict=False):
            if figure is None:
                continue
            ours = float(given[f"{kind}_{figure}"])
            if value < 0:
                assert math.isnan(ours)
            else:
                assert ours / 100 == pytest.approx(value, abs=1e-4), f"{kind} {figure}"
    assert 10 < float(given["box_ap"]) < 90


def test_a_perfect_prediction_has_100_by_class_too(items):
    data, metrics = open_coco(items, "val"), DetectionMetrics(by_class=True)
    classes = set()
    for index in range(len(data)):
        _, target = data[index]
        found = {**target, "scores": torch.ones(len(target["labels"]))}
        metrics.update([{**found, "masks": target["masks"].bool()}], [target])
        classes |= set(target["labels"].tolist())
    assert float(metrics.compute()["mask_ap"]) == pytest.approx(100)
    by_class = metrics.by_class()
    assert set(by_class) == classes
    assert all(row["box_ap"] == pytest.approx(100) for row in by_class.values())


@pytest.mark.parametrize("kinds", [("box",), ("box", "mask")])
def test_the_curve_of_a_class_is_that_of_pycocotools(kinds, items):
    data, generator = open_coco(items, "val"), torch.Generator().manual_seed(0)
    metrics, results = DetectionMetrics(kinds, by_class=True), []
    for index in range(len(data)):
        _, target = data[index]
        found = noisy(target, generator, len(data.classes))
        metrics.update([found], [target])
        results += coco_results(found, int(target["image_id"]), data)["bbox"]
    precision = evaluated(COCO(data.annotations_file), results, "bbox").eval["precision"]
    curves = metrics.by_overlap(data.classes)
    assert curves.columns == ("class", *(f"{0.5 + 0.05 * step:.2f}" for step in range(10)))
    compared = 0
    for name, *values in curves.rows:
        of_class = precision[:, :, data.classes.index(name), 0, -1].mean(1)
        if of_class.min() >= 0:
            assert values == pytest.approx(100 * of_class, abs=1e-3)
            compared += 1
    assert compared > 3


def test_the_predictions_for_one_image_are_held_at_a_time(items):
    data, alive = open_coco(items, "val"), []
    pairs = [data[index] for index in range(3)]
    targets = [target for _, target in pairs]

    def model(images):
        assert len(images) == 1
        assert not any(held() is not None for held in alive)
        target = targets[len(alive)]
        found = {**target, "masks": target["masks"].bool()}
        alive.append(weakref.ref(found["masks"]))
        return [{**found, "scores": torch.ones(len(found["labels"]))}]

    metrics = DetectionMetrics()
    images = [image for image, _ in pairs]
    task = Detection(TrainConfig(), RECORD)
    metrics.update(task.predict(model, images), targets)
    assert len(alive) == 3
    assert float(metrics.compute()["mask_ap"]) == pytest.approx(100)


def test_a_run_trains_keeps_and_evaluates(items, tmp_path):
    summary = train(settings(items, tmp_path / "run", optim=OptimConfig(ema_decay=0.5)))
    assert summary.task == "detection"
    assert set(summary.metrics) == {"box_ap", "mask_ap", "box_ap50", "mask_ap50"}
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert history[0].split(",")[:3] == ["epoch", "train_loss", "box_ap"]
    assert "raw_mask_ap" in history[0]
    model, record = load_model(tmp_path / "run")
    found = evaluate(model, record, DataConfig(name=f"coco:{items}", batch_size=4))
    assert found.images == 6
    assert found.metrics["box_ap"] == pytest.approx(summary.metrics["box_ap"], abs=1e-4)


def without_masks(items, out):
    """A copy of a set, without the masks of its annotations."""
    shutil.copytree(items, out)
    for path in (out / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            row["segmentation"] = []
        path.write_text(json.dumps(content))
    return out


def test_data_without_masks_trains_and_evaluates_boxes_alone(items, tmp_path, capsys):
    boxes = without_masks(items, tmp_path / "boxes")
    config = settings(boxes, tmp_path / "run")
    config.model.args = {**SMALL, "rcnn": {"box_score_thresh": 0.0}}
    summary = train(config)
    assert set(summary.metrics) == {"box_ap", "box_ap50"}
    assert "mask" not in (tmp_path / "run" / "history.csv").read_text()
    model, record = load_model(tmp_path / "run")
    assert not [name for name in model.state_dict() if "mask" in name]
    assert record.args["masks"] is False
    found = evaluate(model, record, DataConfig(name=f"coco:{boxes}", batch_size=4))
    assert found.metrics["box_ap"] == pytest.approx(summary.metrics["box_ap"], abs=1e-4)
    assert set(found.documents) == {"results_bbox"}
    truth = COCO(str(boxes / "annotations" / "instances_validation.json"))
    stats = official(truth, found.documents["results_bbox"], "bbox")
    assert found.metrics["box_ap"] / 100 == pytest.approx(stats[0], abs=1e-4)
    # Masks of the data do not matter to a model of boxes; by the setting they do to none.
    again = evaluate(model, record, DataConfig(name=f"coco:{items}", batch_size=4))
    assert again.metrics == pytest.approx(found.metrics, nan_ok=True)
    config = replace(config, out=str(tmp_path / "chosen"))
    config.data = DataConfig(**{**vars(config.data), "name": f"coco:{items}", "boxes_only": True})
    assert train(config).metrics == pytest.approx(summary.metrics)


def test_masks_of_the_model_follow_the_data(items, tmp_path):
    config = settings(items, tmp_path / "none")
    config.model.args = {**SMALL, "masks": False}
    with pytest.raises(InputError, match=r"masks=False, but with this data it is True: leave it"):
        train(config)
    boxes = without_masks(items, tmp_path / "boxes")
    name = "instances_training.json"
    shutil.copy(items / "annotations" / name, boxes / "annotations" / name)
    with pytest.raises(InputError, match=r"those of the val split have none: data\.boxes_only"):
        train(settings(boxes, tmp_path / "none"))


def test_stopped_and_resumed_it_ends_the_same(items, tmp_path):
    optim = OptimConfig(ema_decay=0.5)
    whole = train(settings(items, tmp_path / "whole", optim=optim))
    train(settings(items, tmp_path / "parts", optim=optim, max_steps=1))
    resumed = train(settings(items, tmp_path / "parts", optim=optim, resume=True))
    first, second = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["raw_state_dict"]
        for name in ("whole", "parts")
    )
    assert resumed.metrics == pytest.approx(whole.metrics, nan_ok=True)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_for_another_task_is_refused(items, tmp_path):
    config = settings(items, tmp_path / "none")
    config.model.name, config.model.args = "kat_micro", {}
    with pytest.raises(InputError, match=r"data for detection, but kat_micro is for classif"):
        train(config)
    assert not (tmp_path / "none").exists()


def test_ranges_are_checked(items, tmp_path):
    config = settings(items, tmp_path / "none")
    config.detection.scale = (2.0, 1.0)
    with pytest.raises(
        InputError, match=r"detection\.scale must be two numbers, the smaller first, got \(2"
    ):
        train(config)


def test_the_loss_is_the_sum_of_its_parts():
    parts = {"loss_classifier": torch.tensor(1.0), "loss_mask": torch.tensor(2.5)}
    assert float(Detection(TrainConfig(), RECORD).loss(parts, [])) == 3.5
