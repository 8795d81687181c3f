"""State dicts: the names in them, and loading them into a model."""

from __future__ import annotations

import pytest
import torch

from kat.errors import InputError
from kat.models import load_weights
from kat.models.checkpoints.weight_files import canonical

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_wrappers_are_removed(prefix):
    named = {f"{prefix}{name}": value for name, value in WEIGHTS.items()}
    assert canonical(named).keys() == WEIGHTS.keys()


def test_an_ema_comes_before_the_weights_and_none_is_skipped():
    average = {"fc.bias": torch.zeros(2)}
    assert canonical({"state_dict": WEIGHTS, "state_dict_ema": average}) == average
    assert canonical({"state_dict": WEIGHTS, "state_dict_ema": None}) == WEIGHTS


def test_mismatches_are_counted_the_first_are_listed_and_nothing_is_copied():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {f"{i}.extra": torch.zeros(1) for i in range(5)}
    given |= {"0.weight": torch.zeros(2, 3), "1.weight": torch.zeros(2, 4)}
    with pytest.raises(InputError) as refusal:
        load_weights(model, given, source="file.pth")
    assert str(refusal.value) == (
        "file.pth holds the weights of another model: 2 missing (0.bias, 1.bias);"
        " 5 unexpected (0.extra, 1.extra, 2.extra and 2 more);"
        " 1 of another shape (1.weight (2, 4) for (2, 2))"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_empty_ema_is_skipped():
    assert list(canonical({"model_ema": {}, "model": {"w": torch.zeros(1)}})) == ["w"]


def test_an_averaged_model_has_the_names_of_the_model():
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    assert list(canonical(averaged.state_dict())) == ["weight", "bias"]
