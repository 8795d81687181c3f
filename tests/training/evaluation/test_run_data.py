"""The data that an evaluation takes from a run, which somebody else may have written."""

from __future__ import annotations

import pytest
import yaml

from kat.errors import InputError
from kat.training.evaluation.run_data import data_of_run


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
        data_of_run(folder, ())
    assert setting not in data_of_run(folder, [setting])


def test_the_settings_of_the_run_are_taken_but_those_that_are_typed(run_with):
    folder = run_with(name="digits", batch_size=3, holdout=0.2, image_size=99)
    assert data_of_run(folder, ()) == {"name": "digits", "batch_size": 3, "holdout": 0.2}
    assert data_of_run(folder, ["name"]) == {"batch_size": 3, "holdout": 0.0}
