"""Confusion, accuracy by class and calibration, against scikit-learn, torchmetrics and by hand."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from kat.analysis import ClassificationReport, calibration, confusion_matrix
from kat.training.evaluation.confusion import class_accuracies, most_confused


def _answers(images: int, classes: int, seed: int = 0) -> tuple[SimpleNamespace, torch.Tensor]:
    """Answers that are right about half of the time, and all their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 2
    probabilities = logits.softmax(-1)
    top = probabilities.topk(min(5, classes))
    return SimpleNamespace(
        names=[f"{i}.jpg" for i in range(images)],
        labels=labels.numpy(),
        top=top.indices.numpy(),
        probabilities=top.values.numpy(),
    ), probabilities


def test_confusion_and_accuracies_are_scikit_learns():
    answers, _ = _answers(500, 7)
    predictions = answers.top[:, 0]
    matrix = confusion_matrix(answers.labels, predictions, 7)
    np.testing.assert_array_equal(matrix, sklearn_confusion(answers.labels, predictions))
    rows = class_accuracies(matrix, list("abcdefg"))
    precision, recall, _, images = precision_recall_fscore_support(answers.labels, predictions)
    np.testing.assert_allclose([row.accuracy for row in rows], 100 * recall)
    np.testing.assert_allclose([row.precision for row in rows], 100 * precision)
    assert [row.images for row in rows] == images.tolist()


def test_classes_without_images_or_answers_have_no_accuracy():
    rows = class_accuracies(
        confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3), ["a", "b", "c"]
    )
    assert [row.accuracy for row in rows] == [50, None, None]
    assert [row.precision for row in rows] == [100, 0, None]
    assert [row.mistaken_for for row in rows] == ["b", None, None]


def test_most_confused_pairs_by_hand():
    matrix = np.array([[5, 2, 0], [0, 9, 0], [4, 0, 1]])
    pairs = most_confused(matrix, ["a", "b", "c"], 5)
    assert [(p.true, p.predicted, p.count, p.images) for p in pairs] == [
        ("c", "a", 4, 5),
        ("a", "b", 2, 7),
    ]
    assert len(most_confused(matrix, ["a", "b", "c"], 1)) == 1


def test_calibration_by_hand():
    confidence = np.array([0.2, 0.5, 0.6, 0.95, 1.0])
    correct = np.array([False, True, False, True, True])
    bins = calibration(confidence, correct, bins=2)
    assert bins.counts.tolist() == [2, 3]  # 0.5 belongs to (0, 0.5], 1 to (0.5, 1]
    np.testing.assert_allclose(bins.confidence, [0.35, 0.85])
    np.testing.assert_allclose(bins.accuracy, [0.5, 2 / 3])
    assert bins.ece == pytest.approx(2 / 5 * 0.15 + 3 / 5 * (0.85 - 2 / 3))


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_is_torchmetrics(bins):
    answers, probabilities = _answers(2000, 5)
    labels = torch.from_numpy(answers.labels)
    expected = multiclass_calibration_error(probabilities, labels, 5, n_bins=bins)
    correct = answers.top[:, 0] == answers.labels
    ours = calibration(answers.probabilities[:, 0], correct, bins)
    assert ours.ece == pytest.approx(expected.item(), abs=1e-6)
    assert ours.counts.sum() == 2000


@pytest.mark.parametrize("classes", [3, 30, 1000])
def test_the_report_holds_every_answer_and_figures_that_open(tmp_path, classes):
    answers, _ = _answers(2 * classes, classes)
    names = [f"class_{i}$" for i in range(classes)]
    report = ClassificationReport(answers, names)
    report.write(tmp_path / "report", report.to_dict())
    folder = tmp_path / "report"
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json", "per_class.csv", "confusion.csv", "predictions.csv",
        "confusion.png", "confusion.svg", "reliability.png", "reliability.svg",
    }  # fmt: skip
    for name in ("confusion", "reliability"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 500
    header, *rows = csv.reader((folder / "confusion.csv").open())
    assert header[1:] == names
    counts = np.array([row[1:] for row in rows], dtype=int)
    np.testing.assert_array_equal(counts, report.matrix)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert sum(entry["images"] for entry in metrics["calibration"]) == 2 * classes
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert [row["file"] for row in rows] == answers.names
    assert [row["class1"] for row in rows] == [names[i] for i in answers.top[:, 0]]
    last = min(5, classes)
    np.testing.assert_allclose(
        [float(row[f"p{last}"]) for row in rows], answers.probabilities[:, last - 1], rtol=1e-5
    )
    per_class = list(csv.DictReader((folder / "per_class.csv").open()))
    assert sum(int(row["correct"]) for row in per_class) == np.trace(report.matrix)


def test_no_confusion_vanishes_in_the_figure_of_many_classes():
    from kat.analysis.figures.classification import _largest

    shares = np.zeros((999, 999))
    shares[998, 501] = 0.7
    pooled = _largest(shares, 4)
    assert pooled.shape == (250, 250)
    assert np.argwhere(pooled).tolist() == [[249, 125]]
