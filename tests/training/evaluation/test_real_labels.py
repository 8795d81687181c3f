"""ImageNet's reassessed labels, against timm's own count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo, RealLabelsImagenet
from torch import nn

from kat.data import DataConfig
from kat.errors import InputError
from kat.training import EvalConfig, evaluate
from kat.training.tasks.classification.report import check_imagenet, read_real_labels, real_accuracy
from tests.training.evaluation.test_evaluate import COLOURS

CLASSES, IMAGES = 10, 24
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, IMAGES + 1)]


@pytest.fixture
def validation(tmp_path):
    """ImageNet's validation layout, ten of its classes; and what is right in each image."""
    rng = np.random.default_rng(0)
    synsets = ImageNetInfo().label_names()[:CLASSES]
    for number, name in enumerate(NAMES):
        folder = tmp_path / "val" / synsets[number * 7 % CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    labels = [sorted(map(int, rng.integers(0, CLASSES, rng.integers(0, 4)))) for _ in range(IMAGES)]
    (tmp_path / "real.json").write_text(json.dumps(labels + [[]] * (50_000 - IMAGES)))
    return tmp_path


def _evaluation(root):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))
    record = COLOURS.__class__(**{**vars(COLOURS), "classes": [str(i) for i in range(1000)]})
    config = EvalConfig(progress=False, device="cpu", keep_logits=True)
    return evaluate(model, record, DataConfig(name=f"folder:{root}", batch_size=5), config)


def test_real_accuracy_is_timms(validation):
    evaluation = _evaluation(validation)
    answers = evaluation.predictions
    files = answers.names + [""] * (50_000 - IMAGES)
    theirs = RealLabelsImagenet(files, str(validation / "real.json"))
    theirs.add_result(torch.from_numpy(answers.logits))
    labels = read_real_labels(str(validation / "real.json"))
    indices = check_imagenet(evaluation.classes, evaluation.predictions.names, labels)
    ours = real_accuracy(evaluation.predictions, indices, labels)
    assert ours["real_top1"] == pytest.approx(theirs.get_accuracy(1))
    assert ours["real_top5"] == pytest.approx(theirs.get_accuracy(5))
    assert ours["real_images"] == len(theirs.is_correct[1]) < IMAGES


def test_other_files_and_classes_are_refused():
    synsets, labels = ImageNetInfo().label_names()[:CLASSES], {NAMES[0]: [1]}
    assert check_imagenet(synsets, [f"val/{NAMES[0]}"], labels) == list(range(CLASSES))
    with pytest.raises(InputError, match="got 'shark'"):
        check_imagenet(["shark"], NAMES[:1], labels)
    with pytest.raises(InputError, match=r"got 'a\.jpg'"):
        check_imagenet(synsets, ["a.jpg"], labels)
    with pytest.raises(InputError, match=r"absent\.json does"):
        read_real_labels("absent.json")
