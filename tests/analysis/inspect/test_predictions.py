"""A classifier's mistakes, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kat.analysis.inspect.predictions import class_findings
from kat.data import Batch
from kat.errors import InputError
from tests.records import RECORD

CLASSES = [str(number) for number in range(10)]


class Certain(nn.Module):
    """Predicts the class in the first pixel, as certainly as the second says."""

    def forward(self, images):
        pixels = images * RECORD.std[0] + RECORD.mean[0]
        place, certain = (255 * pixels[:, 0, 0, :2].T).round()
        return certain[:, None] * nn.functional.one_hot(place.long(), 10)


def _batch(*rows):
    """Images of (predicted class, certainty), and their true classes."""
    images = torch.zeros(len(rows), 1, 8, 8, dtype=torch.uint8)
    for image, (predicted, certain, _) in zip(images, rows, strict=True):
        image[0, 0, :2] = torch.tensor([predicted, certain])
    return Batch(images, torch.tensor([true for *_, true in rows]), [])


def test_the_worst_mistakes_come_first_and_hits_last():
    batches = [_batch((3, 1, 4), (3, 9, 3)), _batch((2, 20, 4), (5, 4, 7), (4, 0, 4))]
    found = class_findings(Certain(), RECORD, batches, CLASSES)
    assert found.images == 5
    assert {tuple(map(int, cell)) for cell in zip(*found.confusion.nonzero(), strict=True)} == {
        (4, 3), (3, 3), (4, 2), (7, 5), (4, 0)
    }  # fmt: skip
    assert found.shown[:, 0, 0, 0].tolist() == [2, 5, 3, 4, 3]  # the last one is right
    assert found.titles[0].split() == ["wrong:", "2", "(100", "%)", "true:", "4"]
    recall = {row.name: (row.recall, row.images) for row in found.by_class if row.images}
    assert recall == {"3": (100.0, 1), "4": (0.0, 3), "7": (0.0, 1)}
    few = class_findings(Certain(), RECORD, batches, CLASSES, most=1)
    assert few.shown[:, 0, 0, 0].tolist() == [2, 3]
    none = class_findings(Certain(), RECORD, [_batch((3, 9, 3))], CLASSES)
    assert [title[:8] for title in none.titles] == ["right: 3"]


def test_classes_in_another_order_are_matched_by_name():
    record = RECORD.__class__(**{**vars(RECORD), "classes": [f"c{n}" for n in range(10)]})
    names = [f"c{n}" for n in reversed(range(10))]
    found = class_findings(Certain(), record, [_batch((3, 9, 6))], names)
    assert [title[:5] for title in found.titles] == ["right"]
    with pytest.raises(InputError, match="class names must"):
        class_findings(Certain(), record, [_batch((3, 9, 6))], [*names[:-1], "other"])
