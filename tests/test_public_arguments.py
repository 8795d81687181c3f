"""Arguments of the public calls that a user may mistake: one line names the argument.

The release check gives each argument each value of ``WRONG``. A call returns, or raises an error of
one line with the name of the argument, or the text that was given for it. ``LEFT`` has the others.
"""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError

WRONG = {
    "None": lambda: None,
    "another object": object,
    "a typo": lambda: "Auto",
    "0": lambda: 0,
    "-1": lambda: -1,
    "2.5": lambda: 2.5,
    "a class": lambda: nn.Linear,
    "a generator": lambda: nn.Linear(2, 2).parameters(),
    "a mapping": lambda: {"a": 1},
    "a list": lambda: ["a"],
}
OTHER_NAMES = {"act_init": "init", "first_init": "init", "images": "image", "device": "accelerator"}
SHORT = {
    "model.args": {"depth": 1}, "limit_train_batches": 1, "limit_val_batches": 1, "progress": False,
}  # fmt: skip

# Errors that are left as they are, by their reason.
OF_TORCH = "torch's or timm's own line, as for nn.Linear or timm's Mlp"
OF_PYTHON = "Python's line; no likely mistake"
OF_PATHS = "pathlib's line says what is no path; the call has one path"
OF_SETTINGS = "only of objects that no setting can be, classes and generators"
LEFT = {
    "Coefficients": {"numerator": OF_PYTHON, "denominator": OF_PYTHON},
    "GRKANLinear": {"device": OF_TORCH, "out_features": OF_TORCH, "init": OF_TORCH},
    "GRKANMlp": dict.fromkeys(
        ["device", "out_features", "first_init", "act_init", "bias", "drop", "norm_layer"], OF_TORCH
    ),
    "GatedGRKANMlp": dict.fromkeys(
        ["device", "in_features", "out_features", "act_init", "bias", "drop", "norm_layer",
         "align_to"], OF_TORCH,
    ),
    "GroupRational": {"device": OF_TORCH, "init": OF_TORCH},
    "KanifyConfig": {"degree": OF_PYTHON, "interval": OF_PYTHON},
    "adapt": {"modules_to_save": OF_PYTHON},
    "kanify": {"calibration": "the model's own error for the batch"},
    "rational": dict.fromkeys(["x", "numerator", "denominator", "dtype"], OF_PYTHON),
    "gated_rational": dict.fromkeys(["x", "numerator", "denominator"], OF_PYTHON),
    "load": {"path": OF_PATHS, "image_size": OF_TORCH},
    "evaluate": {
        "model": OF_PATHS, "image_size": OF_TORCH,
        **dict.fromkeys(["limit", "precision", "progress", "keep_logits"], OF_SETTINGS),
    },
    "calibrate": {
        "run": OF_PATHS, "progress": OF_SETTINGS, "data": "a run this short has no temperature",
    },
    "train": dict.fromkeys(
        ["data", "model", "init_from", "out", "epochs", "device", "seed", "resume", "overwrite",
         "settings"], OF_SETTINGS,
    ),
    "features": {"batch_size": OF_PYTHON},
}  # fmt: skip


def _mlp():
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))


def _kanified():
    return kat.kanify(_mlp()).model


def _tensors():
    return {"x": torch.randn(2, 16), "numerator": torch.eye(3)[1:2], "denominator": torch.eye(4, 2)}


LAYER = {"in_features": 16, "hidden_features": 32, "out_features": 16}
CALLS = {
    "Coefficients": lambda: {"numerator": (0.0, 1.0), "denominator": (0.0,)},
    "GRKANLinear": lambda: {"in_features": 16, "out_features": 8},
    "GRKANMlp": lambda: LAYER,
    "GatedGRKANMlp": lambda: LAYER,
    "GroupRational": dict,
    "KanifyConfig": dict,
    "adapt": lambda: {"model": _kanified(), "kind": "low_rank"},
    "kanify": lambda: {"model": _mlp()},
    "param_groups": lambda: {"model": _kanified(), "lr": 1e-3},
    "register_activations": dict,
    "split_parameters": lambda: {"model": _kanified()},
    "rational": _tensors,
    "gated_rational": lambda: {**_tensors(), "v": torch.randn(2, 16)},
    "transfer_functions": lambda: {"source": _kanified(), "target": _kanified()},
}
OF_RUNS = {
    "load": lambda: {"path": "run"},
    "evaluate": lambda: {"model": "run", "progress": False},
    "calibrate": lambda: {"run": "run", "progress": False},
    "predict": lambda: {"images": torch.zeros(8, 8, dtype=torch.uint8)},
    "features": lambda: {"images": torch.zeros(8, 8, dtype=torch.uint8)},
    "train": lambda: {
        "recipe": "digits", "out": "other", "overwrite": True, "epochs": 1, "device": "cpu",
        "settings": SHORT,
    },
}  # fmt: skip


def _is_right(call, arguments, name):
    try:
        call(**arguments)
    except Exception as error:
        names = rf"\b({name}|{OTHER_NAMES.get(name, name)}|Auto)\b|'a'"
        is_ours = isinstance(error, ValueError | TypeError) and "\n" not in str(error)
        return is_ours and re.search(names, str(error)) is not None
    return True


def _failing(call, make):
    parameters = inspect.signature(call).parameters.values()
    names = [each.name for each in parameters if each.kind != each.VAR_KEYWORD]
    failing = set()
    for name in names:
        for value in WRONG.values():
            if not _is_right(call, {**make(), name: value()}, name):
                failing.add(name)
    return failing


@pytest.mark.release
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_each_argument_of_layers_and_of_calls_on_models(name):
    assert _failing(getattr(kat, name), CALLS[name]) == LEFT.get(name, {}).keys()


@pytest.mark.release
@pytest.mark.filterwarnings("ignore")
def test_each_argument_of_calls_on_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kat.train("digits", out="run", epochs=1, device="cpu", settings=SHORT)
    model = kat.load("run")
    for name, make in OF_RUNS.items():
        call = getattr(model, name, None) or getattr(kat, name)
        assert _failing(call, make) <= LEFT.get(name, {}).keys(), name


def test_the_check_has_all_public_calls():
    others = {"TrainedModel", "models", "__version__"}  # the first is what kat.load returns
    assert {*CALLS, *OF_RUNS} - {"predict", "features"} == {*kat.__all__} - others


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kat.GroupRational("auto"), "num_groups must be an integer .*'auto'"),
    (lambda: kat.GroupRational(0), "num_groups must be .*got 0"),
    (lambda: kat.GroupRational(degree=5), "degree must be"),
    (lambda: kat.GRKANLinear(16, 4, num_groups="Auto"), '^num_groups, if not "auto" .*\'Auto\''),
    (lambda: kat.GRKANMlp(16, num_groups=0), "^num_groups.* got 0"),
    (lambda: kat.GatedGRKANMlp(16, num_groups=-8), "^num_groups.* got -8"),
    (lambda: kat.GRKANMlp(None), "in_features must be"),
    (lambda: kat.GRKANMlp(16, weight_init="xavier"), "weight_init .*'xavier'"),
    (lambda: kat.kanify(nn.Linear), "model must be .*Module"),
    (lambda: kat.kanify(_mlp(), only=nn.Linear(2, 2)), "only must be"),
    (lambda: kat.kanify(_mlp(), config={"groups": 4}), "config must be .*KanifyConfig"),
    (lambda: kat.kanify(_mlp(), calibration=[torch.full((8, 16), math.nan)]), "calibration: .*NaN"),
    (lambda: kat.adapt(_kanified(), "low_rank", rank=0), "rank must be"),
    (lambda: kat.param_groups(_mlp().parameters(), 0.1), "model must be .*got generator"),
    (lambda: kat.register_activations("auto"), "num_groups must be .*'auto'"),
    (lambda: kat.transfer_functions(_mlp().state_dict(), _mlp()), "source must be"),
    (lambda: kat.transfer_functions(_mlp(), "runs/digits"), "target must be .*got str"),
    (lambda: kat.evaluate("runs/digits", 5), "data must be"),
])  # fmt: skip
def test_a_mistaken_argument_is_named(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_groups_of_a_known_width_are_chosen_as_in_a_layer():
    assert kat.GroupRational("auto", num_channels=12).num_groups == 6
    assert kat.GroupRational("channels", num_channels=12).num_groups == 12
