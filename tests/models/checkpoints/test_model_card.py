"""The model card: it says what is on record, and nothing else."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard

from kat.models import TrainingRecord, build_model, save_pretrained
from tests.models.small import make_record, record_of

TRAINING = TrainingRecord(
    settings={
        "out": "private/runs/x",
        "seed": 3,
        "data": {"name": "folder:private/animals", "root": "private"},
        "model": {"init_from": "private/vit.safetensors"},
    },
    metrics={"top1": 91.5, "top5": 99.25, "epochs": 7},
)


def test_the_card_says_what_is_on_record_and_no_more(tmp_path):
    record = make_record()
    model = build_model(record)
    save_pretrained(model, record, tmp_path / "mine", training=TRAINING, license="mit")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "timm")
    assert "top-1 91.50 %, top-5 99.25 %" in card.text
    assert "best of 7 epochs" in card.text
    assert "`kat_micro`: a Kolmogorov-Arnold Transformer" in card.text
    block = card.text.split("```yaml\n")[1].split("```")[0]
    settings = yaml.safe_load(block)
    assert settings == {
        "seed": 3, "data": {"name": "folder"}, "model": {"init_from": "vit.safetensors"}
    }  # fmt: skip
    assert "private" not in card.content
    save_pretrained(model, record, tmp_path / "bare")
    bare = ModelCard.load(tmp_path / "bare" / "README.md")
    assert "No metrics of these weights are on record." in bare.text
    assert "The training of these weights is not on record." in bare.text


@pytest.mark.parametrize(
    "training",
    [
        TrainingRecord(TRAINING.settings, {**TRAINING.metrics, "top1": None, "top5": None}),
        TrainingRecord({**TRAINING.settings, "limit_val_batches": 1}, TRAINING.metrics),
    ],
    ids=["null", "of a part of the split"],
)
def test_metrics_that_say_nothing_are_left_out(training, tmp_path):
    record = make_record()
    save_pretrained(build_model(record), record, tmp_path / "mine", training=training)
    text = (tmp_path / "mine" / "README.md").read_text()
    assert "No metrics of these weights are on record." in text
    assert "91.50" not in text


def test_a_dense_model_has_the_task_and_metrics_of_its_own(tmp_path):
    args = {"img_size": 32, "embed_dim": 48, "channels": 16}
    metrics = {"miou": 37.125, "pixel_accuracy": 80.0, "epochs": 5}
    for name, training in (
        ("kat_upernet_micro", TrainingRecord({"data": {"name": "ade20k:x"}}, metrics)),
        (
            "kat_det_micro",
            TrainingRecord({"data": {"name": "coco:x"}}, {"box_ap": 12, "epochs": 1}),
        ),
    ):
        record = record_of(name, (3, 32, 32), args, ["cat", "dog"])
        save_pretrained(build_model(record), record, tmp_path / name, training=training)
    card = ModelCard.load(tmp_path / "kat_upernet_micro" / "README.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert "mIoU 37.12 %" in card.text
    card = ModelCard.load(tmp_path / "kat_det_micro" / "README.md")
    assert card.data.pipeline_tag == "object-detection"
    assert "box AP 12.00 %.\nThese are the weights of the best of 1 epochs" in card.text
