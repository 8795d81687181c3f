"""The diagnosis of a model near chance, with each cause provoked."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import timm
import torch
import yaml

from kat.training.evaluation.class_match import ClassMatch, imagenet_synsets
from kat.training.evaluation.diagnosis import Classified, explain, recorded_top1
from kat.training.evaluation.diagnosis import suspicion as suspicion_of
from kat.training.evaluation.evaluation import Subject
from kat.training.evaluation.prediction import ClassPredictions
from tests.training.small import RECORD


def _evaluation(
    labels: np.ndarray, predictions: np.ndarray, classes: list[str], basis: str = "names"
) -> Classified:
    """Predictions, still without the model that gave them."""
    zeros = np.zeros(len(labels), np.float32)
    found = ClassPredictions(
        [str(i) for i in range(len(labels))], labels, predictions[:, None], zeros[:, None], zeros,
        zeros,
    )  # fmt: skip
    match = ClassMatch(list(range(len(classes))), basis, [])
    return Classified(None, {}, classes, match, found)


def suspicion(found: Classified, recorded: float | None) -> str | None:
    return suspicion_of(found.predictions, len(found.classes), recorded)


def _top1(found: Classified) -> float:
    return 100 * found.predictions.hits[:, 0].mean()


def _noise(images: int, classes: int, accuracy: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    guesses = rng.integers(0, classes, images)
    return labels, np.where(rng.random(images) < accuracy, labels, guesses)


@pytest.fixture
def subject(tmp_path):
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, num_classes=10)
    path = tmp_path / "model.ckpt"
    record = {"record": dataclasses.asdict(RECORD)}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": record}, path)
    return Subject(model, RECORD, path)


def _found(subject, evaluation, start, overridden=None):
    whole = evaluation._replace(subject=subject, overridden=overridden or {})
    return [line for line in explain(whole) if line.startswith(start)]


def test_chance_is_a_binomials():
    ten = [str(i) for i in range(10)]
    labels, predictions = _noise(200, 10, 0.0)
    assert "on 200 images cannot be told from chance, which is 10.00 % with 10" in suspicion(
        _evaluation(labels, predictions, ten), None
    )
    # scipy.stats.binomtest(29, 200, 0.1, 'greater'): 0.029; of 32 it is 0.0066
    for hits, near in ((29, True), (32, False)):
        predictions = (labels + (np.arange(200) >= hits)) % 10
        assert (suspicion(_evaluation(labels, predictions, ten), None) is not None) == near
    one = _evaluation(labels[:1], labels[:1], ten)
    assert suspicion(one, None) is None  # one image says nothing


def test_far_below_the_runs_record():
    ten = [str(i) for i in range(10)]
    evaluation = _evaluation(*_noise(500, 10, 0.5), ten)
    top1 = _top1(evaluation)
    assert suspicion(evaluation, top1 + 9) is None
    assert "is far below the 90.00 % that the run recorded" in suspicion(evaluation, 90.0)
    few = _evaluation(*_noise(20, 10, 0.7, seed=3), ten)
    assert suspicion(few, _top1(few) + 15) is None  # within the error of 20 images


def test_a_permutation_of_the_classes_is_seen(subject):
    names = [f"class{i}" for i in range(10)]
    labels, predictions = _noise(400, 10, 0.8)
    (line,) = _found(subject, _evaluation(labels, (predictions + 3) % 10, names), "class order")
    assert "it seems to be permuted" in line
    reached = float(line.split("other half is ")[1].split(" %")[0])
    assert reached == pytest.approx(82, abs=6)
    example = line.split("images of '")[1]
    first, second = (int(part.split(")")[0]) for part in example.split("(class ")[1:])
    assert second == (first + 3) % 10


@pytest.mark.parametrize(("images", "classes"), [(100, 10), (500, 50), (2000, 1000)])
def test_guesses_do_not_look_permuted(subject, images, classes):
    names = [f"class{i}" for i in range(classes)]
    evaluation = _evaluation(*_noise(images, classes, 0.0), names)
    assert _found(subject, evaluation, "class order") == []
    assert _found(subject, evaluation, "constant") == []


def test_permutations_of_a_thousand_classes_are_seen_by_two_images_each(subject):
    names = list(imagenet_synsets())
    labels, predictions = _noise(2000, 1000, 0.9)
    order = np.random.default_rng(0).permutation(1000)
    evaluation = _evaluation(labels, order[predictions], names)
    assert len(_found(subject, evaluation, "class order")) == 1


def test_constant_answers_are_seen(subject):
    names = [f"class{i}" for i in range(10)]
    labels = np.arange(200) % 10
    predictions = np.where(np.arange(200) % 40 == 0, 1, 4)
    (line,) = _found(subject, _evaluation(labels, predictions, names), "constant")
    assert "'class4' is predicted for 97.5 % of the images and correct for 10.0 %" in line
    mostly = _evaluation(np.full(200, 4), predictions, names)
    assert _found(subject, mostly, "constant") == []


@pytest.mark.parametrize(
    ("names", "basis", "message"),
    [
        ([str(i) for i in range(1, 11)], "position", "are numbers, from 1 to 10"),
        (["bird", "cat"] + [f"x{i}" for i in range(8)], "position", "in alphabetical order"),
        ([f"x{9 - i}" for i in range(10)], "position", "not ImageNet's synsets ('x9' to 'x0')"),
        (["n01440764"] + [f"x{i}" for i in range(9)], "position", "1 of the data's 10 are synsets"),
        (list(imagenet_synsets()), "ImageNet", "in ImageNet's order: yes"),
        (list(imagenet_synsets())[::-1], "names", "in ImageNet's order: no"),
        ([f"x{i}" for i in range(10)], "names", "the data 10, matched by name"),
    ],
)
def test_the_classes_are_set_against_imagenets(subject, names, basis, message):
    evaluation = _evaluation(*_noise(40, len(names), 0.0), names, basis)
    (line,) = _found(subject, evaluation, "classes")
    assert message in line
    assert "the model has 10" in line


def test_preprocessing_is_set_against_record_and_registry(subject):
    evaluation = _evaluation(*_noise(40, 10, 0.0), RECORD.classes)
    lines = _found(subject, evaluation, "preprocessing", {"crop_pct": (1.0, 0.5)})
    assert "crop_pct is 0.5 here and 1.0 in the checkpoint's record" in lines[0]
    registered = timm.get_pretrained_cfg("kat_micro_patch2_8")
    mean = [line for line in lines if "mean" in line]
    assert f"and {registered.mean} in timm's registry for kat_micro_patch2_8" in mean[0]


def test_what_was_loaded_is_said(subject):
    evaluation = _evaluation(*_noise(40, 10, 0.0), RECORD.classes)
    count = len(subject.model.state_dict())
    (line,) = _found(subject, evaluation, "weights")
    assert line == f"weights: all {count} tensors were loaded, and none is missing"
    subject.model.extra = torch.nn.Linear(1, 1)
    (line,) = _found(subject, evaluation, "weights")
    assert "0 tensors were not loaded and 2 of the model are missing, first extra.bias" in line


def test_further_sets_of_weights_are_named(tmp_path):
    model = timm.create_model("kat_tiny_patch16_224", num_classes=3)
    path = tmp_path / "official.pth"
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": model.state_dict()}, path)
    evaluation = _evaluation(*_noise(40, 10, 0.0), RECORD.classes)
    lines = _found(Subject(model, RECORD, path), evaluation, "weights")
    assert lines[1] == "weights: the file also holds state_dict, which was not used"


def test_what_a_run_recorded(tmp_path):
    assert recorded_top1(tmp_path, "digits") is None
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": {"name": "digits"}}))
    assert recorded_top1(tmp_path, "digits") is None
    with (tmp_path / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", "top1", "best"], [1, 90.0, 1], [2, 80.0, 0]])
    assert recorded_top1(tmp_path, "digits") == 90
    assert recorded_top1(tmp_path / "best.ckpt", "digits") == 90
    assert recorded_top1(tmp_path / "last.ckpt", "digits") == 80
    assert recorded_top1(tmp_path / "mine.ckpt", "digits") is None
    assert recorded_top1(tmp_path, "fashion_mnist") is None
