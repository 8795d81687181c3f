"""The record of a model, and timm's config.json made of it."""

from __future__ import annotations

import json

import pytest

from kat.errors import InputError
from kat.models import ModelRecord
from tests.models.small import ARGS, make_record


def test_config_json_is_what_timm_expects():
    config = json.loads(json.dumps(make_record().to_timm()))
    assert config["architecture"] == "kat_micro"
    assert config["model_args"] == {"in_chans": 1, "img_size": [8, 8], **ARGS}
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert ModelRecord.from_timm(config) == make_record()


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("crop_pct", "x", "crop_pct must be a number from 0.01 to 100, got 'x'"),
        ("crop_pct", 0, "crop_pct must be a number from 0.01 to 100, got 0"),
        ("interpolation", "foo", "interpolation must be one of nearest, .*got 'foo'"),
        ("interpolation", [], "interpolation must be one of"),
        ("mean", [0.5, 0.5, 0.5], "mean must have one number for each of the 1 channels"),
        ("mean", 0.5, "not a model's config.json"),
        ("std", [0.0], r"std must .*above 0, got \(0\.0,\)"),
        ("std", [float("nan")], "std must have one number"),
        ("input_size", [1, "x", 8], r"input_size must be \(channels, height, width\)"),
        ("input_size", [1, 8], "not a model's config.json"),
        ("input_size", [1, 0, 8], r"input_size must be \(channels"),
        (None, [1, 2], "not a model's config.json"),
    ],
)
def test_invalid_entries_are_named(entry, value, message):
    config = make_record().to_timm()
    if entry is None:
        config["pretrained_cfg"] = value
    else:
        config["pretrained_cfg"][entry] = value
    with pytest.raises(InputError, match=message):
        ModelRecord.from_timm(config)
