"""The folder of an evaluation."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from kat.analysis.reports.evaluation import write_evaluation
from kat.training.tasks.classification.report import from_predictions
from tests.training.evaluation.made_predictions import made_predictions


@pytest.mark.parametrize("classes", [3, 1000])
def test_the_report_holds_every_prediction_and_figures_that_open(tmp_path, classes):
    predictions, _ = made_predictions(2 * classes, classes)
    names = [f"class_{i}$" for i in range(classes)]
    found = from_predictions(predictions, names, "made", 1.0)
    write_evaluation(found, tmp_path / "report", found.to_dict())
    folder = tmp_path / "report"
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json", "per_class.csv", "skipped.csv", "confusion.csv", "predictions.csv",
        "confusion.png", "confusion.svg", "reliability.png", "reliability.svg",
    }  # fmt: skip
    for name in ("confusion", "reliability"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 500
    header, *rows = csv.reader((folder / "confusion.csv").open())
    assert header[1:] == names
    counts = np.array([row[1:] for row in rows], dtype=int)
    np.testing.assert_array_equal(counts, found.confusion)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert sum(entry["images"] for entry in metrics["calibration"]) == 2 * classes
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert [row["file"] for row in rows] == predictions.names
    assert [row["class1"] for row in rows] == [names[i] for i in predictions.top[:, 0]]
    last = min(5, classes)
    np.testing.assert_allclose(
        [float(row[f"p{last}"]) for row in rows], predictions.probabilities[:, last - 1], rtol=1e-5
    )
    per_class = list(csv.DictReader((folder / "per_class.csv").open()))
    assert sum(int(row["correct"]) for row in per_class) == np.trace(found.confusion)
