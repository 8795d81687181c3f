"""The data that an evaluation takes from a run, which somebody else may have written."""

from __future__ import annotations

import pytest
import yaml

from kat.errors import InputError
from kat.training.evaluation.run_data import data_of_run, data_to_test


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
        ("name", "hfids/owner/name"),
        ("name", "tfds/mnist"),
        ("root", "pipe:touch ran; cat "),
        ("val_split", "pipe:touch ran; cat a.tar|4"),
        ("root", "https://example.com/shards"),
    ],
)
def test_data_over_the_network_or_from_a_command_has_to_be_typed(run_with, setting, value):
    folder = run_with(**{"name": "wds/x", setting: value})
    with pytest.raises(InputError, match=f"data.{setting} is '{value[:8]}.* if you type it"):
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


def test_settings_that_other_data_does_not_use_are_not_taken(run_with):
    folder = run_with(name="hf:photos", val_split="test", label_key="kind", num_workers=2)
    assert data_of_run(folder, {"name": "folder:x"}) == {"num_workers": 2, "holdout": 0.0}
    assert data_of_run(folder, {"name": "wds:x"})["label_key"] == "kind"


def test_the_own_split_of_a_run_with_a_holdout_is_a_test(run_with):
    folder = run_with(name="folder:x", holdout=0.2, validate_on="holdout")
    own = {"name": "folder:x", "holdout": 0.2, "validate_on": "holdout"}
    assert data_of_run(folder, {}) == own
    settings, remark = data_to_test(folder, {})
    assert settings == {"name": "folder:x", "holdout": 0.0}
    assert "these are the test images" in remark
    assert data_to_test(folder, {"validate_on": "split"}) == (
        {"name": "folder:x", "holdout": 0.2},
        "",
    )
    assert data_to_test(folder, {"name": "folder:y"}) == ({"holdout": 0.0}, "")
    before = run_with(name="digits", holdout=0.2)
    assert data_to_test(before, {}) == ({"name": "digits", "holdout": 0.2}, "")
