"""What limits a run: the verdict on the measurements, and the measurement of the model."""

from __future__ import annotations

import pytest

from kat.data import AugmentConfig, DataConfig
from kat.data.synthetic import make_items
from kat.errors import InputError
from kat.training import ModelConfig, TrainConfig, data_benchmark
from kat.training.data_benchmark import DataBenchmark, benchmark_data, default_workers
from tests.images import write_folder


def _result(loader, need, cores=8, **stages):
    return DataBenchmark("folder:x", cores, loader, stages, need, "a model", 0)


def test_a_loader_that_is_fast_enough():
    result = _result({0: 90.0, 1: 100.0, 2: 190.0, 4: 350.0}, need=150)
    assert (result.bottleneck, result.workers_needed) == ("model", 2)
    assert "The model is the bottleneck: a model trains at 150 images/s" in result.verdict()
    assert "data.num_workers=2 is enough" in result.verdict()


def test_without_workers_the_model_waits():
    assert _result({0: 200.0, 1: 200.0}, need=150).workers_needed == 1
    assert _result({0: 1600.0, 1: 200.0}, need=150).workers_needed == 0


def test_workers_are_extrapolated_if_they_scale():
    result = _result({0: 90.0, 1: 100.0, 2: 190.0, 8: 800.0}, need=1001, read=1.0, decode=3.0)
    assert (result.bottleneck, result.workers_needed) == ("data", 11)  # of 100 images/s each
    assert (
        "About 11 workers are enough (extrapolated, not measured, more than the 8 cores here)"
        in (result.verdict())
    )
    assert "slowest stage is decode (75% of the time): use more cores" in result.verdict()


def test_nothing_is_extrapolated_if_workers_do_not_scale():
    result = _result({1: 100.0, 2: 130.0, 8: 135.0}, need=1000, read=3.0, decode=1.0)
    assert result.workers_needed is None
    assert "the number that is enough is unknown" in result.verdict()
    assert "slowest stage is read (75% of the time): copy the data" in result.verdict()


def test_workers_beyond_the_cores_are_not_extrapolated_from():
    assert _result({1: 100.0, 2: 200.0, 16: 210.0}, need=1000, cores=2).workers_needed == 10


def test_the_model_is_measured_in_training_steps(tmp_path):
    write_folder(tmp_path, classes=2, train=4, val=1)
    (tmp_path / "train" / "n00" / "0.jpg").write_bytes(b"torn")
    config = TrainConfig(
        model=ModelConfig(name="vit_micro_patch8_64", args={"img_size": 16}),
        data=DataConfig(name=f"folder:{tmp_path}", image_size=16, batch_size=4),
        augment=AugmentConfig(mixup=0.8),
        accelerator="cpu",
    )
    told = []
    result = benchmark_data(config, workers=[0], seconds=0.1, tell=told.append)
    assert result.need > 0
    assert result.need_of.startswith("vit_micro_patch8_64 on cpu")
    assert result.unreadable > 0
    assert told == [
        "the stages of loading",
        "the loader with 0 workers",
        "training steps of vit_micro_patch8_64",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "args"),
    [
        ("coco", "kat_det_micro", {"depth": 1, "global_blocks": [0], "channels": 32}),
        (
            "ade20k",
            "kat_upernet_micro",
            {"depth": 4, "global_blocks": [3], "channels": 16, "auxiliary": 8},
        ),
    ],
)
def test_images_with_boxes_and_masks_are_measured_too(tmp_path, kind, model, args):
    make_items(tmp_path / "items", source="digits", images=6, val_images=1, size=32)
    config = TrainConfig(
        model=ModelConfig(name=model, args={"embed_dim": 32, "num_heads": 2, **args}),
        data=DataConfig(name=f"{kind}:{tmp_path / 'items'}", image_size=32, batch_size=3),
        accelerator="cpu",
    )
    result = benchmark_data(config, workers=[0, 1], seconds=0.1)
    assert min(result.need, *result.loader.values(), *result.stages.values()) > 0
    assert result.need_of.startswith(f"{model} on cpu")
    config.model = ModelConfig(name="kat_micro")
    with pytest.raises(InputError, match="but kat_micro is for classification"):
        benchmark_data(config, workers=[0], seconds=0.1)


def test_bad_settings_and_data_are_named(tmp_path):
    for settings in ({"seconds": 0}, {"need": -1.0}, {"workers": [-1]}, {"workers": []}):
        with pytest.raises(InputError, match="must be"):
            benchmark_data(TrainConfig(), **settings)
    write_folder(tmp_path, classes=1, train=2, val=1)
    for path in (tmp_path / "train" / "n00").iterdir():
        path.write_bytes(b"torn")
    data = DataConfig(name=f"folder:{tmp_path}", image_size=16, batch_size=2)
    with pytest.raises(InputError, match=r"no image of .* can be read"):
        benchmark_data(TrainConfig(data=data), need=1, workers=[0], seconds=0.1)


def test_default_numbers_of_workers(monkeypatch):
    monkeypatch.setattr(data_benchmark, "cores", lambda: 6)
    assert default_workers(TrainConfig()) == [0, 1, 2, 4, 6]
    assert default_workers(TrainConfig(data=DataConfig(num_workers=9))) == [0, 1, 2, 4, 6, 9]


def test_settings_that_are_auto_are_settled_first():
    model = ModelConfig(name="kat_micro_patch2_8")
    config = TrainConfig(data=DataConfig("digits", batch_size="auto"), model=model, epochs="auto")
    found = benchmark_data(config, need=1, workers=[0], seconds=0.1)
    assert found.loader[0] > 0
