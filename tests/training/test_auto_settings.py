"""Settings that are auto: the rule by the number of images, and what the source says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import safetensors.torch
import timm
import torch
import yaml

from kat.data import DataConfig, is_stream
from kat.errors import InputError
from kat.models import ModelRecord, build_model, load_model, read_vit, save_model
from kat.training import ModelConfig, OptimConfig, TrainConfig, auto_settings, settings_to_keep
from kat.training.auto_settings import choose, describe, from_images, from_run, from_source
from kat.training.config import automatic, check, setting, with_settings

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
    ("model.name", *(f"data.{name}" for name in ("image_size", "channels", "mean", "std",
                                                 "interpolation", "crop_pct"))),
    "auto",
)  # fmt: skip


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "steps"),
    [
        (20, 8, 100, 200),
        (90, 8, 83, 913),
        (100, 8, 80, 960),
        (900, 32, 41, 1148),
        (1_000, 32, 40, 1240),
        (10_000, 64, 20, 3120),
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


def test_a_batch_is_never_larger_than_the_set_and_settings_are_valid():
    for images in [*range(1, 200), 1_599, 1_600, 20_000]:
        config = with_settings(TrainConfig(), choose(images))
        assert config.data.batch_size <= images
        check(config)


def test_what_is_given_wins_and_what_depends_on_it_follows():
    auto = with_settings(TrainConfig(), dict.fromkeys(choose(1), "auto"))
    config = from_images(dataclasses.replace(auto, epochs=4), 100)
    assert (config.epochs, config.optim.warmup_epochs) == (4, 0.2)
    config = from_images(with_settings(auto, {"data.batch_size": 256, "optim.lr": 0.5}), 100)
    assert (config.data.batch_size, config.optim.lr, config.epochs) == (256, 0.5, 80)
    config = from_images(with_settings(auto, {"data.batch_size": 16}), 100)
    assert config.optim.lr == 5e-4
    assert from_images(TrainConfig(), 100) == TrainConfig()


@pytest.mark.parametrize("name", ["optim.warmup_epochs", "optim.rational_warmup_epochs"])
@pytest.mark.parametrize(("epochs", "warmup"), [(2, 4), (4, 4), ("auto", 90)])
def test_a_warm_up_that_would_not_end_is_that_of_auto_and_said_so(name, epochs, warmup):
    given = with_settings(TrainConfig(epochs=epochs), {name: float(warmup)})
    check(given)
    config = from_images(given, 100)
    assert setting(config, name) == choose(100, epochs=config.epochs)[name] < config.epochs
    shortened = f"{setting(config, name):g}: the run has {config.epochs} epochs"
    assert describe(given, config)[-1] == f"{name}={warmup} is shortened to {shortened}"


def test_a_warm_up_that_ends_is_kept():
    config = TrainConfig(epochs=5, optim=OptimConfig(warmup_epochs=4, rational_warmup_epochs=4.9))
    assert from_images(config, 100) == config
    assert describe(config, config) == []


def test_settings_that_are_auto_are_checked_as_far_as_they_are_known():
    with pytest.raises(InputError, match=r"data\.batch_size=auto depends on the number of images"):
        check(TrainConfig(data=DataConfig(name="wds/mine", batch_size="auto")))
    assert [is_stream(n) for n in ("wds/a", "wds:a", "hfids/a", "folder:wds", "torch/cifar10")] == [
        True, False, True, False, False,
    ]  # fmt: skip


def _auto(init_from=None, **values):
    config = TrainConfig(model=ModelConfig(init_from=init_from))
    return with_settings(config, {**IMAGES, **values})


def test_a_kat_brings_its_model_and_its_images(tmp_path):
    save_model(build_model(GREY), GREY, tmp_path)
    config = from_source(_auto(str(tmp_path)), read_vit(tmp_path))
    assert not automatic(config)
    assert config.model.name == "kat_micro_patch4_28"
    assert {"num_groups": 4, "depth": 1}.items() <= config.model.args.items()
    data = config.data
    assert (data.image_size, data.channels, data.mean, data.std) == (40, 1, [0.3], [0.2])
    assert (data.interpolation, data.crop_pct) == ("lanczos", 0.9)
    given = {"data.image_size": 56, "model.args": {"depth": 2}}
    config = from_source(_auto(str(tmp_path), **given), read_vit(tmp_path))
    assert (config.data.image_size, config.data.mean) == (56, [0.3])
    assert config.model.args["depth"] == 2
    assert "data.image_size" not in "".join(describe(_auto(**given), config))


def test_a_vit_becomes_the_kat_of_its_size(tmp_path):
    record = dataclasses.replace(GREY, architecture="vit_micro_patch4_28", args={"depth": 1})
    save_model(build_model(record), record, tmp_path)
    config = from_source(_auto(str(tmp_path)), read_vit(tmp_path))
    assert (config.model.name, config.model.args) == ("kat_micro_patch4_28", {"depth": 1})
    config = from_source(_auto(**{"model.name": "vit_micro"}), read_vit(tmp_path))
    assert config.model.name == "vit_micro"
    record = dataclasses.replace(
        GREY, architecture="vit_wee_patch16_reg1_gap_256", args={"embed_dim": 64, "depth": 1}
    )
    save_model(build_model(record), record, tmp_path)
    with pytest.raises(InputError, match="no KAT corresponds to 'vit_wee_patch16_reg1_gap_256'"):
        from_source(_auto(str(tmp_path)), read_vit(tmp_path))


def test_files_that_say_less(tmp_path):
    """An official KAT is known by its width; of another bare file the user must say the model."""
    kat = timm.create_model("kat_tiny_patch16_224", num_classes=7, depth=1)
    torch.save(kat.state_dict(), tmp_path / "kat.pth")
    config = from_source(_auto(), read_vit(tmp_path / "kat.pth"))
    assert (config.model.name, config.data.image_size) == ("kat_tiny_patch16_224", 224)
    assert (config.data.crop_pct, config.data.channels) == (0.875, 3)
    vit = timm.create_model("vit_micro_patch4_28", in_chans=1, depth=1)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    source = read_vit(tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match=r"does not name its model; give --model\.name"):
        from_source(_auto(), source)
    config = from_source(_auto(**{"model.name": "kat_micro_patch4_28"}), source)
    assert (config.data.image_size, config.data.channels, config.data.mean) == (28, 1, [0.5])


def test_without_a_source():
    with pytest.raises(InputError, match=r"give --init-from or --model\.name"):
        from_source(_auto(), None)
    config = from_source(_auto(**{"model.name": "kat_micro_patch8_64"}), None)
    assert (config.data.image_size, config.data.channels, config.data.mean) == (64, None, None)
    with pytest.raises(InputError, match="unknown model 'kat_mikro'; did you mean 'kat_micro'"):
        from_source(_auto(**{"model.name": "kat_mikro"}), None)


def test_a_model_for_images_that_are_not_square_is_named(monkeypatch):
    recipe = {"input_size": (3, 48, 32), "interpolation": "bicubic", "crop_pct": 1.0}
    monkeypatch.setattr(auto_settings, "registered_preprocessing", lambda name: recipe)
    with pytest.raises(InputError, match="auto, but kat_micro takes images of 48x32"):
        from_source(_auto(**{"model.name": "kat_micro"}), None)


def test_a_resumed_run_has_what_was_chosen_when_it_was_started(tmp_path):
    started = with_settings(
        TrainConfig(out=str(tmp_path)),
        {**choose(100), "model.name": "kat_micro_patch2_8", "model.args": {"depth": 1}},
    )
    settings = yaml.safe_dump(settings_to_keep(started))
    (tmp_path / "run.yaml").write_text(settings)
    auto = {**dict.fromkeys(choose(1), "auto"), "model.name": "auto"}
    assert from_run(with_settings(TrainConfig(out=str(tmp_path)), auto)) == started
    (tmp_path / "run.yaml").write_text(settings.replace("mixup:", "mixdown:"))
    with pytest.raises(InputError, match=r"augment\.mixup is missing in run\.yaml"):
        from_run(with_settings(TrainConfig(out=str(tmp_path)), auto))


def test_a_head_of_other_classes_stays_behind(tmp_path):
    save_model(build_model(GREY), GREY, tmp_path)
    source = read_vit(tmp_path)
    assert source.for_classes(["a", "b"]) is source
    other = source.for_classes(["b", "a"])
    assert set(source.weights) - set(other.weights) == {"head.weight", "head.bias"}
    assert other.dropped == ("head.weight", "head.bias")
    numbered = dataclasses.replace(source, classes=["0", "1"])
    assert numbered.for_classes(["cat", "dog"]) is numbered
    assert load_model(tmp_path)[1].classes == ["a", "b"]
