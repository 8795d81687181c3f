"""What limits a run: the verdict from the figures, and the figures themselves."""

from __future__ import annotations

import multiprocessing
import time

import pytest
import torch
from torch.utils.data import get_worker_info

from kat.data import AugmentConfig, DataConfig, ImageSet
from kat.data.dense.synthetic import make_items
from kat.errors import InputError
from kat.training import ModelConfig, TrainConfig, data_benchmark
from kat.training.data_benchmark import STAGES, DataBenchmark, benchmark_data, default_workers
from kat.training.tasks import classification
from tests.images import picture, write_folder

SMALL_BATCHES = TrainConfig(data=DataConfig(batch_size=8))


def _result(loader, need, cores=8, **stages):
    return DataBenchmark("folder:x", cores, loader, stages, need, "a model", 0)


def test_a_loader_that_gives_more_than_is_needed():
    result = _result({0: 90.0, 1: 100.0, 2: 190.0, 4: 350.0}, need=150)
    assert (result.bottleneck, result.workers_needed) == ("model", 2)
    assert "The model is the bottleneck: a model takes 150 images/s" in result.verdict()
    assert "data.num_workers=2 is enough" in result.verdict()


def test_without_workers_the_model_waits():
    assert _result({0: 200.0, 1: 200.0}, need=150).workers_needed == 1
    assert _result({0: 1600.0, 1: 200.0}, need=150).workers_needed == 0


def test_workers_are_extrapolated_where_they_scale():
    result = _result({0: 90.0, 1: 100.0, 2: 190.0, 8: 800.0}, need=1001, read=1.0, decode=3.0)
    assert (result.bottleneck, result.workers_needed) == ("data", 11)  # of 100 images/s each
    assert "About 11 workers would do (extrapolated, not measured, more than the 8 cores here)" in (
        result.verdict()
    )
    assert "goes into decode (75%): use more cores" in result.verdict()


def test_nothing_is_extrapolated_from_workers_that_wait():
    result = _result({1: 100.0, 2: 130.0, 8: 135.0}, need=1000, read=3.0, decode=1.0)
    assert result.workers_needed is None
    assert "it is not known how many would do" in result.verdict()
    assert "goes into read (75%): copy the data to a local disk" in result.verdict()


def test_workers_beyond_the_cores_tell_nothing_of_each():
    assert _result({1: 100.0, 2: 200.0, 16: 210.0}, need=1000, cores=2).workers_needed == 10


class _Slow:
    """A source and transform that take known times, by a clock of their own.

    The first images that two workers load are there when both have been asked for.
    """

    def __init__(self):
        self.now, self.both, self.waited = 0.0, multiprocessing.Barrier(2), False

    def __len__(self):
        return 64

    def name(self, index):
        return f"slow {index}"

    def read(self, index):
        self.now += 0.004
        if get_worker_info() is not None and not self.waited:
            self.waited = True
            self.both.wait(60)
        return picture(index), 0

    def transform(self, image):
        self.now += 0.008
        return torch.zeros(3, 4, 4)


@pytest.fixture
def slow(monkeypatch):
    source = _Slow()
    monkeypatch.setattr(
        data_benchmark, "open_split", lambda *_: ImageSet(source, ["0"], image_size=(4, 4))
    )
    monkeypatch.setattr(classification, "train_transform", lambda *_: source.transform)
    return source


def test_stages_and_loader_take_the_time_that_is_put_into_them(slow, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: slow.now)
    result = benchmark_data(SMALL_BATCHES, need=100, workers=[0], seconds=0.4)
    assert tuple(result.stages) == STAGES
    assert list(result.stages.values()) == pytest.approx([0.004, 0, 0.008, 0])
    assert result.loader == {0: pytest.approx(1 / 0.012)}


def test_workers_load_side_by_side(slow):
    result = benchmark_data(SMALL_BATCHES, need=100, workers=[2], seconds=0.1)
    assert result.loader[2] > 0
    assert result.unreadable == 0


def test_the_need_is_that_of_training_steps(tmp_path):
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


def test_workers_tried_by_default(monkeypatch):
    monkeypatch.setattr(data_benchmark, "cores", lambda: 6)
    assert default_workers(TrainConfig()) == [0, 1, 2, 4, 6]
    assert default_workers(TrainConfig(data=DataConfig(num_workers=9))) == [0, 1, 2, 4, 6, 9]
