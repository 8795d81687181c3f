"""Folders that transformers loads where neither kat nor timm is installed."""

from __future__ import annotations

import json

import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from torch.nn import functional

from kat.data import eval_transform
from kat.deploy import export_transformers
from kat.errors import ExportFailed, InputError
from kat.models import build_model
from tests.deploy.distance import distance
from tests.environment import link, run_in
from tests.models.small import record_of

pytestmark = pytest.mark.slow

SMALL = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2}
MODELS = {
    "untrained": ("kat_micro", {}),
    "gelu": ("kat_tiny_gelu_patch16_224", {"share": "none", "degree": [3, 2]}),
    "shared": ("kat_micro", {"share": "denominator", "form": "B", "num_groups": 4}),
    "options": ("kat_micro", {"drop_path_rate": 0.1, "qkv_bias": False, "norm_eps": 1e-3}),
}
READER = """
import importlib.util, json, sys
from pathlib import Path
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import Trainer, TrainingArguments

folder = Path(sys.argv[1])
read = {"installed": [name for name in ("kat", "timm") if importlib.util.find_spec(name)]}
for path in folder.glob("*.inputs"):
    name = str(path.with_suffix(""))
    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
    images, labels = torch.load(path)
    output = model(images, labels=labels)
    output.loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    torch.save([output.logits, output.loss, gradients], path.with_suffix(".outputs"))
read["classes"] = model.config.id2label
processor = AutoImageProcessor.from_pretrained(name)
pixels = processor(Image.open(folder / "picture.png"), return_tensors="pt")["pixel_values"]
torch.save(pixels[0], folder / "pixels")

class WithoutDecay(Trainer):
    def get_decay_parameter_names(self, model):
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not name.endswith(("_numerator", "_denominator"))]

items = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
settings = TrainingArguments(
    folder / "run", max_steps=3, report_to="none", use_cpu=True, gradient_checkpointing=True
)
trainer = WithoutDecay(model, settings, train_dataset=items)
trainer.train()
for kind in (Trainer, WithoutDecay):
    names = kind(model, settings).get_decay_parameter_names(model)
    read[kind.__name__] = sorted({name.rpartition("mlp.")[2] for name in names if "mlp" in name})
model.save_pretrained(folder / "tuned")
tuned = AutoModelForImageClassification.from_pretrained(folder / "tuned", trust_remote_code=True)
logits = model.eval()(images).logits
read["moved"] = (logits - output.logits).abs().max().item()
read["saved"] = torch.equal(tuned(images).logits, logits)
print(json.dumps(read))
"""


def make(name):
    architecture, args = MODELS[name]
    record = record_of(architecture, (1, 8, 8), {**SMALL, **args})
    torch.manual_seed(0)
    model = build_model(record).eval()
    if name != "untrained":  # b = 0, and act1 is the identity
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model, record


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What a process without kat and timm has read, and the folder of what it was given."""
    folder = tmp_path_factory.mktemp("transformers")
    for name in MODELS:
        model, record = make(name)
        export_transformers(model, record, folder / name)
        labels = torch.tensor([0, 2, 1, 1])
        torch.save([torch.randn(4, 1, 8, 8), labels], folder / f"{name}.inputs")
    Image.effect_noise((13, 10), 60).save(folder / "picture.png")
    needed = [Requirement(name) for name in ("transformers", "torch", "accelerate", "pillow")]
    environment = link(tmp_path_factory.mktemp("environment"), needed)
    cache = str(tmp_path_factory.mktemp("cache"))
    offline = {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = run_in(environment, READER, str(folder), project=False, **offline)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_are_those_of_the_model(read, name):
    model, _ = make(name)
    images, labels = torch.load(read[1] / f"{name}.inputs")
    logits = model(images)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    got_logits, got_loss, gradients = torch.load(read[1] / f"{name}.outputs")
    assert distance(got_logits, logits) < 1e-5
    assert distance(got_loss, loss) < 1e-5
    for key, parameter in model.named_parameters():
        gradient = gradients.pop(key)
        assert distance(gradient, parameter.grad) < 1e-5
    assert not gradients


def test_trainer_fine_tunes_it_where_neither_kat_nor_timm_is_installed(read):
    """By default with weight decay on coefficients, which the page says how to avoid."""
    found = read[0]
    assert found["installed"] == []
    assert found["classes"] == {"0": "ant", "1": "bee", "2": "cat"}
    assert "act2.weight_numerator" in found["Trainer"]
    assert found["WithoutDecay"] == ["fc1.weight", "fc2.weight"]
    assert found["moved"] > 0
    assert found["saved"]


def test_the_processor_prepares_images_as_kat_does(read):
    want = eval_transform(make("gelu")[1])(Image.open(read[1] / "picture.png"))
    torch.testing.assert_close(torch.load(read[1] / "pixels"), want)


def test_another_model_is_refused_and_one_with_other_logits_is_not_kept(tmp_path):
    for name, args, message in (
        ("vit_micro", {}, "only plain KATs"),
        ("kat_upernet_micro", {}, "only plain KATs"),
        ("kat_glu_micro", {}, "without gates"),
        ("kat_micro", {"grkan_blocks": [1]}, "12 missing"),
    ):
        record = record_of(name, (3, 32, 32), args)
        with pytest.raises(InputError, match=message):
            export_transformers(build_model(record).eval(), record, tmp_path / "mine")
    model, record = make("gelu")
    model.head.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(ExportFailed, match="logits differ"):
        export_transformers(model, record, tmp_path / "mine")
    assert not list(tmp_path.iterdir())
