"""Hostile values for every setting of ``kat train``: it trains, or says in one line why not."""

from __future__ import annotations

import random
from functools import partial

import pytest

from kat.cli.options.parser import setting_defaults
from kat.training import TrainConfig
from tests.hostile import TEXTS, assert_held
from tests.isolated import call

SETTINGS = [name for name, _ in setting_defaults(TrainConfig)]
COMMON = [
    "--epochs=1", "--max_steps=2", "--limit_train_batches=2", "--limit_val_batches=1",
    "--no-progress", "--accelerator=cpu", "--devices=1",
]  # fmt: skip
CLASSIFIER = ["--data.name=digits", "--model.name=kat_micro_patch2_8", "--data.batch_size=8"]
SLOW = {("data.image_size", "1_000")}
"""Done as asked for, but not in the time of a case: attention over 250,000 patches."""
PARTS = 8
"""Into how many tests the settings are divided, for as many processes."""


def arguments_for(name, value, items):
    """The command that trains with this value of a setting, on data that the setting is for."""
    dense = {
        "detection": [f"--data.name=coco:{items}", "--model.name=kat_det_micro"],
        "segmentation": [f"--data.name=ade20k:{items}", "--model.name=kat_upernet_micro"],
    }
    base = dense.get(name.split(".")[0], CLASSIFIER)
    kept = [option for option in base + COMMON if not option.startswith(f"--{name}=")]
    if base is not CLASSIFIER:
        kept.append("--data.batch_size=2")
    return ["train", *kept, f"--{name}={value}"]


def cases(names, count, items, folder):
    """Some hostile values for each of these settings."""
    for name in names:
        rng = random.Random(f"settings {name}")
        for number, value in enumerate(rng.sample(TEXTS, count)):
            if (name, value) in SLOW:
                continue
            place = folder / f"{name}-{number}"
            place.mkdir()
            yield f"--{name}={value}", partial(call, arguments_for(name, value, items), place)


@pytest.mark.slow
def test_some_hostile_settings(items, tmp_path):
    names = random.Random(0).sample(SETTINGS, 16)
    assert_held(cases(names, 1, items, tmp_path))


@pytest.mark.release
@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_values_of_every_setting(part, items, tmp_path):
    assert_held(cases(SETTINGS[part::PARTS], len(TEXTS), items, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.num_workers", "99999999999999"),
        ("accelerator", "tpu"),
        ("data.image_size", "1"),
        ("data.image_size", "99999999999999"),
        ("data.crop_pct", "1e-300"),
        ("model.args", "{1: 2}"),
        ("devices", "99999999999999"),
        ("num_nodes", "99999999999999"),
        ("data.batch_size", "9223372036854775808"),
        ("optim.min_lr", "1e300"),
        ("epochs", "9" * 200),
        ("augment.color_jitter", "1e300"),
    ],
)
def test_absurd_values_are_named(name, value, items, tmp_path):
    outcome = call(arguments_for(name, value, items), tmp_path)
    assert outcome.code == 2
    assert outcome.held, outcome.err
    assert name.split(".")[-1] in outcome.err


@pytest.mark.parametrize("name", ["detection", "checkpoint"])
def test_a_section_is_no_text_in_another_encoding(name, items, tmp_path):
    outcome = call(arguments_for(name, "\udcff", items), tmp_path)
    assert outcome.code == 2
    assert outcome.held, outcome.err
    assert "is not UTF-8" in outcome.err
