"""The record of a model, and timm's config.json made of it."""

from __future__ import annotations

import json

import pytest

from kat.errors import InputError
from kat.models import ModelRecord
from tests.models.small import ARGS, make_record, record_of


def test_config_json_is_what_timm_expects():
    config = json.loads(json.dumps(make_record().to_timm()))
    assert config["architecture"] == "kat_micro"
    assert config["model_args"] == {"in_chans": 1, "img_size": [8, 8], **ARGS}
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert ModelRecord.from_timm(config) == make_record()


def test_invalid_entries_are_named():
    config = make_record().to_timm()
    config["pretrained_cfg"]["mean"] = [0.5] * 3
    with pytest.raises(InputError, match="mean and std must have one number for each of the 1 ch"):
        ModelRecord.from_timm(config)
    config["pretrained_cfg"]["input_size"] = [1, 8]
    with pytest.raises(InputError, match=r"not a model's config\.json"):
        ModelRecord.from_timm(config)


@pytest.mark.parametrize("name", ["kat_micro", "kat_det_micro"])
def test_a_misspelt_argument_is_named_with_the_nearest(name):
    with pytest.raises(InputError, match="'num_group'; did you mean 'num_groups'"):
        record_of(name, (3, 8, 8), {"num_group": 4})
