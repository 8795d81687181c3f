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
        ("mean", [0.5, 0.5, 0.5], "mean and std must have one number for each of the 1 channels"),
        ("input_size", [1, 8], "not a model's config.json"),
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
