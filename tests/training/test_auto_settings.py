"""Settings that are auto: the rule by the number of images, and what the source says."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from kat.data import AugmentConfig, DataConfig, open_split
from kat.errors import InputError
from kat.models import ModelRecord, build_model, read_vit, save_model
from kat.settings import flat
from kat.training import ModelConfig, OptimConfig, TrainConfig, settings_to_keep
from kat.training.settings.auto_settings import choose, from_scratch, resolve_auto
from kat.training.settings.recipes import config_from

GREY = ModelRecord(
    architecture="kat_micro_patch4_28",
    classes=["a", "b"],
    input_size=(1, 40, 40),
    mean=(0.3,),
    std=(0.2,),
    interpolation="lanczos",
    crop_pct=0.9,
    args={"num_groups": 4, "depth": 1},
)
IMAGES = dict.fromkeys(
    ("image_size", "channels", "mean", "std", "interpolation", "crop_pct"), "auto"
)
AUTO = TrainConfig(
    epochs="auto",
    data=DataConfig(batch_size="auto"),
    augment=AugmentConfig(mixup="auto"),
    optim=OptimConfig(lr="auto", warmup_epochs="auto", rational_warmup_epochs="auto"),
)


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "steps"),
    [
        (20, 8, 100, 200),
        (100, 8, 80, 960),
        (1_000, 32, 40, 1240),
        (100_000, 64, 10, 15_620),
        (10_000_000, 64, 5, 781_250),
    ],
)
def test_rule_by_the_number_of_images(images, batch_size, epochs, steps):
    chosen = choose(images)
    assert (chosen["data.batch_size"], chosen["epochs"]) == (batch_size, epochs)
    assert images // batch_size * epochs == steps
    assert chosen["optim.lr"] == pytest.approx(1e-3 * math.sqrt(batch_size / 64), abs=1e-7)
    assert chosen["optim.warmup_epochs"] == epochs / 20
    assert chosen["optim.rational_warmup_epochs"] == epochs / 10
    assert chosen["augment.mixup"] == (0.1 if images >= 20_000 else 0)


class _Images:
    """A training split of which only the number of images counts."""

    task = "classification"

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def imbalance(self):
        return ""


def _filled(config, kept, source, data):
    return resolve_auto(config, data, kept, source, torch.device("cpu"))[0]


def _by_images(config, images):
    return _filled(config, {}, None, _Images(images))


def test_a_batch_is_never_larger_than_the_set_and_settings_are_valid():
    for images in [*range(1, 200), 1_599, 1_600, 20_000]:
        config = _by_images(AUTO, images)
        assert config.data.batch_size <= images
        assert "auto" not in flat(asdict(config.optim)).values()


def test_given_settings_win_and_the_others_follow():
    config = _by_images(replace(AUTO, epochs=4), 100)
    assert (config.epochs, config.optim.warmup_epochs) == (4, 0.2)
    rate = replace(AUTO, data=DataConfig(batch_size=256), optim=replace(AUTO.optim, lr=0.5))
    config = _by_images(rate, 100)
    assert (config.data.batch_size, config.optim.lr, config.epochs) == (256, 0.5, 80)
    config = _by_images(replace(AUTO, data=DataConfig(batch_size=16)), 100)
    assert config.optim.lr == 5e-4
    assert _by_images(TrainConfig(), 100) == TrainConfig()


@pytest.mark.parametrize("name", ["warmup_epochs", "rational_warmup_epochs"])
@pytest.mark.parametrize(("epochs", "warmup"), [(2, 4), (4, 4), ("auto", 90)])
def test_a_warm_up_that_would_not_end_is_that_of_auto(name, epochs, warmup):
    given = TrainConfig(epochs=epochs, optim=OptimConfig(**{name: float(warmup)}))
    config = _by_images(config_from(given), 100)
    now = getattr(config.optim, name)
    assert now == choose(100, epochs=config.epochs)[f"optim.{name}"] < config.epochs


def _settled(source, name="auto", args=None, **data):
    model = ModelConfig(name, args or {}, init_from="here")
    given = TrainConfig(model=model, data=DataConfig(**{**IMAGES, **data}))
    return _filled(given, {}, source, _Images(100))


def test_a_kat_brings_its_model_and_its_images(tmp_path):
    save_model(build_model(GREY), GREY, tmp_path)
    config = _settled(read_vit(tmp_path))
    assert config.model.name == "kat_micro_patch4_28"
    assert {"num_groups": 4, "depth": 1}.items() <= config.model.args.items()
    data = config.data
    assert (data.image_size, data.channels, data.mean, data.std) == (40, 1, [0.3], [0.2])
    assert (data.interpolation, data.crop_pct) == ("lanczos", 0.9)
    config = _settled(read_vit(tmp_path), args={"depth": 2}, image_size=56)
    assert (config.data.image_size, config.data.mean) == (56, [0.3])
    assert config.model.args["depth"] == 2


def test_a_vit_becomes_the_kat_of_its_size(tmp_path):
    record = replace(GREY, architecture="vit_micro_patch4_28", args={"depth": 1})
    save_model(build_model(record), record, tmp_path)
    config = _settled(read_vit(tmp_path))
    assert (config.model.name, config.model.args) == ("kat_micro_patch4_28", {"depth": 1})
    assert _settled(read_vit(tmp_path), "vit_micro").model.name == "vit_micro"
    record = replace(
        GREY, architecture="vit_wee_patch16_reg1_gap_256", args={"embed_dim": 64, "depth": 1}
    )
    save_model(build_model(record), record, tmp_path)
    with pytest.raises(InputError, match="'vit_wee_patch16_reg1_gap_256'"):
        _settled(read_vit(tmp_path))


def test_files_that_say_less(tmp_path):
    """An official KAT is known by its width; of another bare file the user must say the model."""
    kat = timm.create_model("kat_tiny_patch16_224", num_classes=7, depth=1)
    torch.save(kat.state_dict(), tmp_path / "kat.pth")
    config = _settled(read_vit(tmp_path / "kat.pth"))
    assert (config.model.name, config.data.image_size) == ("kat_tiny_patch16_224", 224)
    assert (config.data.crop_pct, config.data.channels) == (0.875, 3)
    vit = timm.create_model("vit_micro_patch4_28", in_chans=1, depth=1)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    source = read_vit(tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match=r"--model\.name"):
        _settled(source)
    config = _settled(source, "kat_micro_patch4_28")
    assert (config.data.image_size, config.data.channels, config.data.mean) == (28, 1, [0.5])


def _photographs(folder, sides):
    """Photographs of two classes whose shorter sides these are, and two that cannot be read."""
    for number, side in enumerate(sides):
        image = Image.new("RGB", (side, 2 * side) if number % 2 else (3 * side, side))
        path = folder / "train" / f"n{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        path.with_name("torn.png").write_bytes(b"torn")
    return open_split(DataConfig(f"folder:{folder}", holdout=0), "train")


@pytest.mark.parametrize(
    ("sides", "size", "patch"),
    [
        ([500, 640, 300], 224, 16),
        ([150, 90, 131], 128, 16),
        ([102] * 3, 96, 16),
        ([70, 61, 200], 72, 8),
        ([33] * 3, 32, 4),
        ([3] * 3, 4, 2),
    ],
)
def test_a_model_and_its_images_from_scratch(tmp_path, sides, size, patch):
    """The median side, rounded to the patch; at most 100 patches but for the largest."""
    data = _photographs(tmp_path, sides)
    auto = TrainConfig(model=ModelConfig("auto"), data=DataConfig(**IMAGES))
    values, reason = from_scratch(auto, data, torch.device("cpu"))
    wanted = {"model.name": "kat_micro", "model.args": {"patch_size": patch}}
    assert values == {**wanted, "data.image_size": size}
    assert reason.endswith(f" {sorted(sides)[1]}")
    settled = _filled(auto, {}, None, data)
    assert (settled.data.image_size, settled.data.channels, settled.data.mean) == (size, None, None)
    model = replace(ModelConfig("auto"), args={"patch_size": 7})
    given = replace(auto, model=model, data=DataConfig(**{**IMAGES, "image_size": 56}))
    config, lines = resolve_auto(given, data, {}, None, torch.device("cuda"))
    assert (config.model.name, config.model.args) == ("kat_tiny_patch16_224", {"patch_size": 7})
    assert config.data.image_size == 56
    assert "GPU" in lines[0]


def test_larger_models_for_more_images_and_for_dense_tasks_on_a_gpu(tmp_path, items):
    auto = TrainConfig(model=ModelConfig("auto"), data=DataConfig(**IMAGES))
    many = _photographs(tmp_path, [300, 300])
    many.source = replace(many.source, labels=np.zeros(100_000, np.int32))
    many.evenly_spaced = lambda count: _photographs(tmp_path, [300, 300])
    gpu = torch.device("cuda")
    assert from_scratch(auto, many, gpu)[0]["model.name"] == "kat_small_patch16_224"
    for name, models in (
        (f"coco:{items}", ("kat_det_micro", "kat_det_tiny")),
        (f"ade:{items}", ("kat_upernet_micro", "kat_upernet_tiny")),
    ):
        data = open_split(DataConfig(name), "train")
        for device, model in zip(("cpu", "cuda"), models, strict=True):
            values, _ = from_scratch(auto, data, torch.device(device))
            assert (values["model.name"], values["data.image_size"]) == (model, 64)
    (unreadable := tmp_path / "none" / "train" / "n0").mkdir(parents=True)
    (unreadable / "a.png").write_bytes(b"torn")
    data = open_split(DataConfig(f"folder:{tmp_path / 'none'}", holdout=0), "train")
    with pytest.raises(InputError, match="none of 1"):
        from_scratch(auto, data, gpu)


def test_rates_decay_over_the_layers_of_a_source_alone(tmp_path):
    auto = replace(AUTO, optim=replace(AUTO.optim, layer_decay="auto"))
    assert _by_images(auto, 100).optim.layer_decay == 1
    save_model(build_model(GREY), GREY, tmp_path)
    config = replace(auto, model=ModelConfig("auto"), data=DataConfig(**IMAGES))
    assert _filled(config, {}, read_vit(tmp_path), _Images(100)).optim.layer_decay == 0.75


def test_without_a_source():
    config = _settled(None, "kat_micro_patch8_64")
    assert (config.data.image_size, config.data.channels, config.data.mean) == (64, None, None)
    with pytest.raises(InputError, match="did you mean"):
        _settled(None, "kat_mikro")


def test_a_resumed_run_has_what_was_chosen_when_it_was_started():
    model = ModelConfig("kat_micro_patch2_8", {"depth": 1})
    started = replace(_by_images(AUTO, 100), model=model)
    again = replace(AUTO, model=ModelConfig("auto"))
    assert _filled(again, settings_to_keep(started), None, _Images(5000)) == started
