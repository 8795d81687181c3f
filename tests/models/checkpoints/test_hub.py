"""Models in the Hub's format, which timm and transformers load too."""

from __future__ import annotations

import json
from dataclasses import replace

import huggingface_hub
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import kat
from kat.errors import InputError
from kat.models import TrainingRecord, build_model, from_pretrained, load_model, save_pretrained
from tests.models.small import make_record

TRAINING = TrainingRecord(
    settings={
        "out": "private/runs/x",
        "seed": 3,
        "data": {"name": "folder:private/animals", "root": "private"},
        "model": {"init_from": "private/vit.safetensors", "functions_from": "private/run"},
    },
    metrics={"out": "private/runs/x", "top1": 91.5, "top5": 99.25, "epochs": 7},
)


@pytest.fixture(scope="module")
def trained():
    """A model of gray 8x8 images and three classes."""
    args = {"num_groups": 4, "num_classes": 3}
    record = replace(make_record(), architecture="kat_micro_patch2_8", args=args)
    torch.manual_seed(0)
    return build_model(record).eval(), record


@pytest.fixture
def folder(trained, tmp_path):
    save_pretrained(*trained, tmp_path / "mine", training=TRAINING, license="mit")
    return tmp_path / "mine"


def images() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_card_says_what_is_on_record_and_no_more(folder):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "timm")
    block = card.text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {
        "metrics": {"top1": 91.5, "top5": 99.25, "epochs": 7},
        "settings": {
            "seed": 3, "data": {"name": "folder"},
            "model": {"init_from": "vit.safetensors", "functions_from": "run"},
        },
    }  # fmt: skip
    assert "private" not in card.content


def test_timm_loads_it(trained, folder):
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(loaded(images()), trained[0](images()))
    assert loaded.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    data = timm.data.resolve_model_data_config(loaded)
    assert (data["input_size"], *data["mean"], *data["std"]) == ((1, 8, 8), 0.3, 0.4)


@pytest.mark.slow
def test_transformers_loads_it(trained, folder):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from kat.data import eval_transform

    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert torch.equal(loaded(images()).logits, trained[0](images()))
    assert loaded.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    picture = Image.effect_noise((20, 16), 60)
    pixels = AutoImageProcessor.from_pretrained(folder)(picture)["pixel_values"]
    torch.testing.assert_close(pixels[0], eval_transform(trained[1])(picture))


@pytest.mark.slow
def test_what_transformers_has_trained_and_saved_loads(folder, tmp_path, capsys):
    """transformers copies the checksum of the weights that it has read into its configuration."""
    from transformers import AutoModelForImageClassification

    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        loaded.timm_model.head.bias.add_(1)
    loaded.save_pretrained(tmp_path / "tuned")
    capsys.readouterr()
    model, record = load_model(tmp_path / "tuned")
    assert torch.equal(model(images()), loaded(images()).logits)
    assert record.classes == ["ant", "bee", "cat"]
    assert "no checksum" in capsys.readouterr().err


def test_it_loads_here_from_a_folder_and_from_the_cache(trained, folder, monkeypatch):
    def download(repository, *, revision, token, allow_patterns):
        assert (repository, revision) == ("me/mine", "v1")
        assert set(allow_patterns) == {"model.safetensors", "config.json"}
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for source, revision in ((str(folder), None), ("me/mine", "v1")):
        model, record = from_pretrained(source, revision=revision)
        assert torch.equal(model(images()), trained[0](images()))
        assert record.classes == trained[1].classes


def test_a_folder_that_timm_has_saved_loads_and_is_corrected(trained, tmp_path):
    """timm writes num_classes into model_args; transformers passes it a second time."""
    model, record = trained
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    assert (
        "num_classes" in json.loads((tmp_path / "timm" / "config.json").read_text())["model_args"]
    )
    loaded, read = from_pretrained(str(tmp_path / "timm"))
    assert torch.equal(loaded(images()), model(images()))
    save_pretrained(loaded, replace(read, classes=record.classes), tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "num_classes" not in config["model_args"]
    assert config["num_classes"] == 3


def test_a_folder_with_other_files_is_left_alone(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes"):
        save_pretrained(*trained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_is_not_that_of_its_record_is_refused(trained, tmp_path):
    _, record = trained
    model = build_model(record)
    kat.adapt(model, "low_rank").merge()
    with pytest.raises(
        InputError, match=r"not the one of its record .* holds the weights of another model"
    ):
        save_pretrained(model, record, tmp_path / "model")
    assert not (tmp_path / "model").exists()
