"""The data that an evaluation takes from a run, which somebody else may have written."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from kat.data import DataConfig, data_record, open_split
from kat.errors import InputError
from kat.training.evaluation.run_data import (
    data_of_run,
    data_to_test,
    settings_of_run,
    take_one_split,
)
from tests.images import write_folder


@pytest.fixture
def run_with(tmp_path):
    """Writes the settings of a run with this data."""

    def write(**data):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": data}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", "hf:https://example.com/photos"),
        ("root", "https://example.com/shards"),
    ],
)
def test_data_over_the_network_or_from_a_command_has_to_be_typed(run_with, setting, value):
    folder = run_with(**{"name": "wds/x", setting: value})
    with pytest.raises(InputError, match=f"data.{setting} is '{value[:8]}"):
        data_of_run(folder, {})
    assert setting not in data_of_run(folder, {setting: "folder:mine"})


def test_the_settings_of_the_run_are_taken_but_those_that_are_typed(run_with):
    folder = run_with(name="digits", batch_size=3, holdout=0.2, image_size=99)
    assert data_of_run(folder, {}) == {"name": "digits", "batch_size": 3, "holdout": 0.2}
    assert data_of_run(folder, {"name": "folder:y"}) == {"batch_size": 3, "holdout": 0.0}


def test_the_run_s_own_data_by_its_name_is_held_out_as_in_the_run(run_with, tmp_path):
    folder = run_with(name=f"folder:{tmp_path}/photos", holdout=0.2)
    typed = {"name": f"folder:{tmp_path}/other/../photos"}
    assert data_of_run(folder, typed) == {"holdout": 0.2}
    assert data_of_run(folder, {"name": f"tar:{tmp_path}/photos"}) == {"holdout": 0.0}


def test_data_that_has_moved_is_held_out_as_in_the_run(run_with, tmp_path):
    """Else a model would be evaluated on images that it was trained on."""
    write_folder(tmp_path / "before", classes=2, train=10, val=1)
    shutil.rmtree(tmp_path / "before" / "val")
    config = DataConfig(f"folder:{tmp_path}/before", holdout=0.3)
    record = data_record(config, open_split(config, "train"), open_split(config, "val"))
    folder = run_with(name=config.name, holdout=0.3)
    (folder / "data.json").write_text(json.dumps(record))
    shutil.move(tmp_path / "before", tmp_path / "now")
    typed = {"name": f"folder:{tmp_path}/now"}
    assert data_of_run(folder, typed) == {"holdout": 0.3}
    assert data_of_run(folder / "a.onnx", typed, settings_of_run(folder)) == {"holdout": 0.3}
    shutil.copytree(tmp_path / "now" / "train" / "n00", tmp_path / "now" / "train" / "n02")
    assert data_of_run(folder, typed) == {"holdout": 0.0}


def test_settings_that_other_data_does_not_use_are_not_taken(run_with):
    folder = run_with(name="hf:photos", val_split="test", label_key="kind", num_workers=2)
    assert data_of_run(folder, {"name": "folder:x"}) == {"num_workers": 2, "holdout": 0.0}
    assert data_of_run(folder, {"name": "wds:x"})["label_key"] == "kind"


def test_all_models_see_the_images_that_none_of_them_was_trained_on(tmp_path):
    """Held out of a class are the first images in a fixed order: 0.1 of them is part of 0.2."""
    write_folder(tmp_path / "x", classes=2, train=20, val=0)
    shutil.rmtree(tmp_path / "x" / "val")
    name = f"folder:{tmp_path}/x"
    again = f"folder:{tmp_path}/x/../x"
    shares = {"a": 0.2, "b": 0.1, "bare": 0.0}
    names = dict(zip(shares, (name, again, name), strict=True))
    settings = [{"name": names[each], "holdout": share} for each, share in shares.items()]
    other = {"name": "digits", "holdout": 0.3}
    take_one_split([*settings, other])
    assert other == {"name": "digits", "holdout": 0.3}
    seen = [_files(DataConfig(**one), "val") for one in settings]
    assert seen[0] == seen[1] == seen[2]
    for share in (0.1, 0.2):
        assert not seen[0] & _files(DataConfig(name, holdout=share), "train")


def _files(config, split):
    data = open_split(config, split)
    return {data.name(index).rpartition("/x/")[2] for index in range(len(data))}


def test_splits_by_name_are_taken_over_or_have_to_be_chosen():
    rows = [{"name": "hf:x", "holdout": 0.0}, {"name": "hf:x", "holdout": 0.0, "val_split": "b"}]
    take_one_split(rows)
    assert [row["val_split"] for row in rows] == ["b", "b"]
    rows[0]["val_split"] = "a"
    with pytest.raises(InputError, match=r"data\.val_split is 'a'"):
        take_one_split(rows)


def test_the_settings_in_the_record_of_an_export_come_before_those_of_its_folder(run_with):
    folder = run_with(name="digits", holdout=0.2)
    exported = {"data": {"name": "folder:x", "holdout": 0.3}, "seed": 1}
    assert data_of_run(folder / "a.onnx", {}, exported) == {"name": "folder:x", "holdout": 0.3}
    fetched = {"data": {"name": "torch/x", "root": "https://example.com"}}
    with pytest.raises(InputError, match=r"'https://example.com' in .*a\.onnx"):
        data_of_run(folder / "a.onnx", {}, fetched)


def test_the_own_split_of_a_run_with_a_holdout_is_a_test(run_with):
    folder = run_with(name="folder:x", holdout=0.2, validate_on="holdout")
    own = {"name": "folder:x", "holdout": 0.2, "validate_on": "holdout"}
    assert data_of_run(folder, {}) == own
    settings, remark = data_to_test(folder, {})
    assert settings == {"name": "folder:x", "holdout": 0.0}
    assert "the test images" in remark
    assert data_to_test(folder, {"name": "folder:x"}) == ({"holdout": 0.0}, remark)
    as_in_the_run = {"name": "folder:x", "holdout": 0.2}, ""
    assert data_to_test(folder, {"validate_on": "split"}) == as_in_the_run
    assert data_to_test(folder, {"name": "folder:y"}) == ({"holdout": 0.0}, "")
    before = run_with(name="digits", holdout=0.2)
    assert data_to_test(before, {}) == ({"name": "digits", "holdout": 0.2}, "")
