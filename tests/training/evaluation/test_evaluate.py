"""The evaluation's one pass: against timm's validation loop, torchmetrics, and by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import create_dataset, create_loader
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy

from kat.data import DataConfig
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.training import EvalConfig, evaluate
from kat.training.tasks.classification.report import suspicion
from tests.images import write_folder
from tests.training.evaluation.made_predictions import made_predictions
from tests.training.small import RECORD

pytestmark = pytest.mark.slow

QUIET = EvalConfig(progress=False, device="cpu", keep_logits=True)
COLOURS = ModelRecord(
    architecture="resnet18",
    classes=[f"n{i:02}" for i in range(10)],
    input_size=(3, 8, 8),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bilinear",
    crop_pct=1.0,
)


@pytest.fixture
def folder(tmp_path):
    """Thirty images of ten classes of their own brightness."""
    write_folder(tmp_path, classes=10, train=1, val=3)
    return tmp_path


def _by_colour(classes: int = 10, seed: int = 0) -> nn.Module:
    """A model that knows an image by its mean colour."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    nn.init.normal_(model[2].weight, std=5)
    return model.eval()


def _data(root: Path, **settings: object) -> DataConfig:
    return DataConfig(name=f"folder:{root}", batch_size=7, holdout=0, **settings)


def _timms_validation(model: nn.Module, root: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Files, logits and labels by timm's dataset, loader and settings of the model."""
    dataset = create_dataset("", root=str(root))
    settings = timm.data.resolve_data_config({}, model=model)
    assert (settings["crop_pct"], settings["interpolation"]) == (0.875, "bicubic")
    loader = create_loader(
        dataset, settings["input_size"], batch_size=4, use_prefetcher=False, num_workers=0,
        interpolation=settings["interpolation"], mean=settings["mean"], std=settings["std"],
        crop_pct=settings["crop_pct"], device=torch.device("cpu"),
    )  # fmt: skip
    with torch.inference_mode():
        logits, labels = zip(*((model(images), labels) for images, labels in loader), strict=True)
    files = [str(root / name) for name in dataset.filenames()]
    return files, torch.cat(logits), torch.cat(labels)


def test_an_official_checkpoint_gives_what_timms_validation_gives(tmp_path):
    """Bicubic, crop 0.875, ImageNet's mean and std, on images of many sizes and modes."""
    write_folder(tmp_path, classes=10, train=0, val=1)
    torch.manual_seed(0)
    model = timm.create_model("kat_tiny_patch16_224", num_classes=10).eval()
    nn.init.normal_(model.head.weight)
    files, logits, labels = _timms_validation(model, tmp_path / "val")
    shared = logits.mean(0)  # without which one class would take all images
    model.head.bias.data -= shared
    expected = logits - shared
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "official.pth")

    evaluation = evaluate(*load_model(tmp_path / "official.pth"), _data(tmp_path), QUIET)

    found = evaluation.predictions
    assert found.names == files
    np.testing.assert_array_equal(found.labels, labels)
    assert len(set(found.top[:, 0].tolist())) > 2
    np.testing.assert_array_equal(found.top[:, 0], expected.argmax(-1))
    torch.testing.assert_close(torch.from_numpy(found.logits), expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-2  # far above what rounding moves
    hits = (expected.argmax(-1) == labels).sum().item()
    assert evaluation.metrics["top1"] == pytest.approx(100 * hits / 10)


def test_metrics_are_those_of_torchmetrics_and_count_each_image_once(folder):
    evaluation = evaluate(_by_colour(), COLOURS, _data(folder), QUIET)
    found, metrics = evaluation.predictions, evaluation.metrics
    logits, labels = torch.from_numpy(found.logits), torch.from_numpy(found.labels)
    assert evaluation.images == 30
    for k in (1, 5):
        expected = multiclass_accuracy(logits, labels, 10, average="micro", top_k=k)
        assert metrics[f"top{k}"] == pytest.approx(100 * expected.item(), abs=1e-4)
    assert metrics["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item())
    probabilities, close = logits.softmax(-1), {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(found.probabilities, probabilities.topk(5).values, **close)
    np.testing.assert_allclose(found.true_probability, probabilities[range(30), labels], **close)


@pytest.mark.parametrize("workers", [0, 2])
def test_names_stay_with_their_images_where_some_cannot_be_read(folder, workers):
    whole = evaluate(_by_colour(), COLOURS, _data(folder), QUIET)
    torn = sorted((folder / "val").rglob("*.jpg"))[3:12:2]
    for path in torn:
        path.write_bytes(b"torn")
    (folder / "val" / "n00" / "notes.txt").write_text("")
    part = evaluate(_by_colour(), COLOURS, _data(folder, num_workers=workers), QUIET)
    before = dict(zip(whole.predictions.names, whole.predictions.logits.tolist(), strict=True))
    after = dict(zip(part.predictions.names, part.predictions.logits.tolist(), strict=True))
    assert len(after) == 25
    for name, logits in after.items():
        assert logits == pytest.approx(before[name], rel=1e-5)
        assert COLOURS.classes[part.predictions.labels[part.predictions.names.index(name)]] in name
    images = [name for name in part.skipped if name.endswith(".jpg")]
    assert images == [str(path) for path in torn]
    assert len(part.skipped) == 6
    with pytest.raises(InputError, match="an image"):
        evaluate(_by_colour(), COLOURS, _data(folder, bad_images="fail"), QUIET)
    for path in (folder / "val").rglob("*.jpg"):
        path.write_bytes(b"torn")
    with pytest.raises(InputError, match="has no image"):
        evaluate(_by_colour(), COLOURS, _data(folder), QUIET)


def test_classes_in_another_order_and_fewer_of_them_go_by_name(folder):
    plain = evaluate(_by_colour(), COLOURS, _data(folder), QUIET)
    names = [COLOURS.classes[i] for i in (3, 1, 0, 2, 9, 8, 7, 6, 5, 4)]
    model = _by_colour()
    order = [COLOURS.classes.index(name) for name in names]
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter.copy_(parameter[order].clone())
    shuffled = dataclasses.replace(COLOURS, classes=names)
    again = evaluate(model, shuffled, _data(folder), QUIET)
    np.testing.assert_array_equal(again.predictions.logits, plain.predictions.logits)
    assert ["another order" in note for note in again.notes] == [True]
    more = _by_colour(14)
    with torch.no_grad():
        more[2].weight[4:].copy_(_by_colour()[2].weight)
        more[2].bias[4:].copy_(_by_colour()[2].bias)
        more[2].bias[:4] = 1e4  # would win if they could be chosen
    record = dataclasses.replace(COLOURS, classes=["a", "b", "c", "d", *COLOURS.classes])
    subset = evaluate(more, record, _data(folder), QUIET)
    np.testing.assert_allclose(subset.predictions.logits, plain.predictions.logits, rtol=1e-5)
    assert subset.metrics["loss"] == pytest.approx(plain.metrics["loss"])


def test_limit_takes_images_from_every_class(folder):
    config = dataclasses.replace(QUIET, limit=10)
    found = evaluate(_by_colour(), COLOURS, _data(folder), config).predictions
    assert found.labels.tolist() == list(range(10))


def test_reduced_precision_moves_the_logits_a_little(folder):
    plain = evaluate(_by_colour(), COLOURS, _data(folder), QUIET).predictions.logits
    config = dataclasses.replace(QUIET, precision="bf16-mixed")
    reduced = evaluate(_by_colour(), COLOURS, _data(folder), config).predictions.logits
    assert reduced.dtype == np.float32
    assert 0 < np.abs(reduced - plain).max() <= 2**-6 * np.abs(plain).max()


def test_an_exported_file_has_its_own_precision(folder):
    class Exported(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) @ torch.ones(3, 10)

    assert evaluate(Exported(), COLOURS, _data(folder), QUIET).images == 30
    config = dataclasses.replace(QUIET, precision="bf16-mixed")
    with pytest.raises(InputError, match="precision of its"):
        evaluate(Exported(), COLOURS, _data(folder), config)


def test_a_model_in_training_is_evaluated_as_it_will_be_used_and_trains_on():
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, num_classes=10, drop_rate=0.9)
    losses = [
        evaluate(model.train(mode), RECORD, DataConfig(), QUIET).metrics["loss"]
        for mode in (False, True)
    ]
    assert losses[0] == losses[1]
    assert all(module.training for module in model.modules())


def test_a_top1_that_guessing_reaches_is_warned_of():
    """scipy.stats.binomtest(29, 200, 0.1, 'greater') is 0.029; of 32 it is 0.0066."""
    predictions, _ = made_predictions(200, 10)
    for hits, near in ((29, True), (32, False)):
        guesses = (predictions.labels + (np.arange(200) >= hits)) % 10
        guessed = dataclasses.replace(predictions, top=guesses[:, None])
        assert (suspicion(guessed, 10) is not None) == near
    one = dataclasses.replace(predictions, labels=predictions.labels[:1], top=guesses[:1, None])
    assert suspicion(one, 10) is None  # one image says nothing
