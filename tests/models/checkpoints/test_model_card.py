"""The model card: it says what is on record, and nothing else."""

from __future__ import annotations

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
    metrics={"out": "private/runs/x", "top1": 91.5, "top5": 99.25, "epochs": 7},
)


def test_the_card_says_what_is_on_record_and_no_more(tmp_path):
    record = make_record()
    model = build_model(record)
    save_pretrained(model, record, tmp_path / "mine", training=TRAINING, license="mit")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "timm")
    assert "`kat_micro`: a Kolmogorov-Arnold Transformer" in card.text
    block = card.text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {
        "metrics": {"top1": 91.5, "top5": 99.25, "epochs": 7},
        "settings": {
            "seed": 3, "data": {"name": "folder"}, "model": {"init_from": "vit.safetensors"}
        },
    }  # fmt: skip
    assert "private" not in card.content
    save_pretrained(model, record, tmp_path / "bare")
    bare = ModelCard.load(tmp_path / "bare" / "README.md")
    assert "The training of these weights is not on record." in bare.text


def test_a_dense_model_has_the_task_of_its_own(tmp_path):
    args = {"img_size": 32, "embed_dim": 48, "channels": 16}
    record = record_of("kat_upernet_micro", (3, 32, 32), args, ["cat", "dog"])
    save_pretrained(build_model(record), record, tmp_path / "dense")
    card = ModelCard.load(tmp_path / "dense" / "README.md")
    assert card.data.pipeline_tag == "image-segmentation"
