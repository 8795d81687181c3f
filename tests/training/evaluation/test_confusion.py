"""Confusion, scores by class and calibration, against scikit-learn, torchmetrics and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from kat.training.tasks.classification.metrics import (
    calibration,
    class_scores,
    confusion_matrix,
    macro_means,
    most_confused,
)
from kat.training.tasks.classification.report import from_predictions, interval
from tests.training.evaluation.made_predictions import made_predictions


def test_confusion_and_accuracies_are_scikit_learns():
    found, _ = made_predictions(500, 7)
    predictions = found.top[:, 0]
    matrix = confusion_matrix(found.labels, predictions, 7)
    np.testing.assert_array_equal(matrix, sklearn_confusion(found.labels, predictions))
    rows = class_scores(matrix, list("abcdefg"))
    precision, recall, f1, images = precision_recall_fscore_support(found.labels, predictions)
    np.testing.assert_allclose([row.recall for row in rows], 100 * recall)
    np.testing.assert_allclose([row.precision for row in rows], 100 * precision)
    np.testing.assert_allclose([row.f1 for row in rows], 100 * f1)
    assert [row.images for row in rows] == images.tolist()


@pytest.mark.parametrize(
    "pairs",
    [[(0, 0), (0, 1), (2, 2)], [(0, 1), (1, 0)], [(3, 3)], [(0, 0), (0, 4), (4, 0), (1, 2)]],
)
def test_macro_means_are_scikit_learns_where_a_class_is_missing_too(pairs):
    labels, predictions = np.array(pairs).T
    rows = class_scores(confusion_matrix(labels, predictions, 5), list("abcde"))
    *wanted, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    found = macro_means(rows)
    names = ("precision", "recall", "f1")
    assert [found[f"macro_{name}"] for name in names] == pytest.approx(100 * np.array(wanted))


def test_classes_without_images_or_found_have_no_recall():
    rows = class_scores(confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3), ["a", "b", "c"])
    assert [row.recall for row in rows] == [50, None, None]
    assert [row.precision for row in rows] == [100, 0, None]
    assert [row.f1 for row in rows] == [pytest.approx(200 / 3), 0, None]
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
    found, probabilities = made_predictions(2000, 5)
    labels = torch.from_numpy(found.labels)
    expected = multiclass_calibration_error(probabilities, labels, 5, n_bins=bins)
    correct = found.top[:, 0] == found.labels
    ours = calibration(found.probabilities[:, 0], correct, bins)
    assert ours.ece == pytest.approx(expected.item(), abs=1e-6)
    assert ours.counts.sum() == 2000


@pytest.mark.parametrize(("classes", "has_top5", "has_ranks"), [
    (5, False, False), (6, True, False), (9, True, False), (10, True, True),
])  # fmt: skip
def test_few_classes_have_no_top_5_and_no_best_and_worst(classes, has_top5, has_ranks):
    found, _ = made_predictions(300, classes)
    result = from_predictions(found, [f"c{n}" for n in range(classes)], "made", 1.0)
    lines = "\n".join(result.lines)
    assert ("top5" in result.metrics, "top-5" in lines) == (has_top5, has_top5)
    assert ("lowest recall" in lines, "highest recall" in lines) == (has_ranks, has_ranks)


def test_an_accuracy_has_wilson_s_interval_where_images_are_few():
    """Compared with statsmodels' proportion_confint(23, 25, method="wilson"): 0.7503, 0.9778."""
    assert interval(92.0, 25) == " (95 % CI 75 to 98)"
    assert interval(100.0, 25) == " (95 % CI 87 to 100)"
    assert interval(100.0, 999).endswith(" to 100)")
    assert interval(90.0, 1000) == ""
