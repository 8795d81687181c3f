"""Grids: which cells and settings a YAML file stands for, and which runs are the same run."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from kat.errors import InputError
from kat.settings import merged
from kat.training import TrainConfig, settings_to_keep
from kat.training.settings.recipes import nested
from kat.training.sweep.grid import read_grids
from kat.training.sweep.plan import find_grids, fingerprint, settings_of, with_model_of_size

FACTORS = {
    "model.args.num_groups": [8, 4, "channels"],
    "init": {"ours": None, "published": {"model.args.mlp_init": "trunc_normal", "epochs": 3}},
}


def read_grid(path):
    """The one grid of a file."""
    (grid,) = read_grids(path)
    return grid


def _write(tmp_path, **content):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"factors": FACTORS, **content}, sort_keys=False))
    return path


def test_all_combinations(tmp_path):
    grid = read_grid(_write(tmp_path, seeds=[3, 5], settings={"epochs": 2, "optim.lr": 0.1}))
    assert (grid.name, grid.seeds, grid.recipe, len(grid.cells)) == ("grid", [3, 5], None, 6)
    assert grid.factors == list(FACTORS)
    assert grid.settings == {"epochs": 2, "optim": {"lr": 0.1}}
    cell = grid.cells[-1]
    assert cell.name.endswith(": channels, init: published")
    assert cell.levels == {"model.args.num_groups": "channels", "init": "published"}
    assert cell.settings == {
        "epochs": 3,
        "model": {"args": {"num_groups": "channels", "mlp_init": "trunc_normal"}},
    }


def test_several_grids_of_a_file_share_what_is_common(tmp_path):
    path = tmp_path / "study.yaml"
    common = {"recipe": "digits", "seeds": [1, 2], "settings": {"epochs": 2, "optim.lr": 0.1}}
    tune = {"setting": "optim.weight_decay", "values": [0, 1], "seed": 9}
    grids = {
        "all": {"factors": FACTORS},
        "wide": {
            "title": "Wide?", "seeds": [3], "settings": {"epochs": 5}, "tune": tune,
            "factors": {"model.args.embed_dim": [64, 128]},
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"title": "a study", **common, "grids": grids}))
    first, wide = read_grids(path)
    assert (first.name, first.title, first.seeds) == ("study_all", "study_all", [1, 2])
    assert (wide.name, wide.title, wide.seeds) == ("study_wide", "Wide?", [3])
    assert [grid.recipe for grid in (first, wide)] == ["digits", "digits"]
    assert first.settings == {"epochs": 2, "optim": {"lr": 0.1}}
    assert wide.settings == {"epochs": 5, "optim": {"lr": 0.1}}


def test_one_of_several_grids_of_a_file_can_be_named(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"grids": {name: {"factors": FACTORS} for name in "ab"}}))
    assert [grid.name for grid in find_grids([str(path)])] == ["study_a", "study_b"]
    assert [grid.name for grid in find_grids([f"{path}:b", f"{path}:a"])] == ["study_b", "study_a"]
    with pytest.raises(InputError, match=r"study\.yaml 'c'.*a, b"):
        find_grids([f"{path}:c"])


def test_one_factor_at_a_time(tmp_path):
    cells = read_grid(_write(tmp_path, vary="one")).cells
    assert [cell.name for cell in cells] == [
        "reference", "model.args.num_groups: 4", "model.args.num_groups: channels",
        "init: published",
    ]  # fmt: skip
    assert cells[3].levels == {"model.args.num_groups": "8", "init": "published"}
    assert cells[3].settings["model"]["args"] == {"num_groups": 8, "mlp_init": "trunc_normal"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"factors": {"a": {"b": 3}}}, r"factors\.a\..* of .*grid.yaml: .*, got 3"),
        ({"sedes": [1]}, "unknown entry of .* 'sedes'; did you mean 'seeds'"),
        ({"seeds": [0, "x"]}, r"seeds\.1 of .*: Input should be a valid integer.*, got 'x'"),
        ({"factors": {"box_ap": {"a": {}}}}, "factor 'box_ap' .* has the name of a column"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        read_grid(_write(tmp_path, **content))


def test_nesting_and_merging():
    assert nested({"a.b": 1, "a.c.d": 2, "e": {"f": 3}}) == {
        "a": {"b": 1, "c": {"d": 2}},
        "e": {"f": 3},
    }
    first = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(first, {"a": {"b": 4}}, {"d": {"e": 5}}) == {"a": {"b": 4, "c": 2}, "d": {"e": 5}}
    assert first == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("order", [1, -1])
def test_a_setting_in_both_forms_has_what_both_say(order):
    given = [("optim.lr", 0.5), ("optim", {"weight_decay": 0.0, "betas": [0.9, 0.99]})][::order]
    assert nested(dict(given)) == {"optim": {"lr": 0.5, "weight_decay": 0.0, "betas": [0.9, 0.99]}}


def test_a_star_is_the_size_of_the_kat():
    base = {"model": {"name": "kat_tiny_patch16_224"}}
    content = merged(base, {"model": {"name": "vit_mlp_*", "args": {"depth": 2}}})
    filled = with_model_of_size(content, base)
    assert filled == {"model": {"name": "vit_mlp_tiny_patch16_224", "args": {"depth": 2}}}
    assert with_model_of_size(base, base) == base
    with pytest.raises(InputError, match=r"kat_\* model.* 'vit_micro'"):
        with_model_of_size(content, {"model": {"name": "vit_micro"}})


def test_equal_runs_have_equal_fingerprints():
    config = TrainConfig(epochs=3)
    same = dataclasses.replace(
        config, out="elsewhere", progress=False, log_every_n_steps=7, resume="auto"
    )
    assert fingerprint(config) == fingerprint(same)
    assert settings_of(settings_to_keep(same)) == {"epochs": 3}
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, epochs=4),
        dataclasses.replace(config, model=dataclasses.replace(config.model, args={"depth": 2})),
        dataclasses.replace(config, model=dataclasses.replace(config.model, args={"init": None})),
    ]
    assert len({fingerprint(c) for c in [config, *others]}) == 5


def test_a_test_and_the_cell_that_is_reached(tmp_path):
    grid = read_grid(_write(tmp_path))
    assert (grid.test, grid.reached) == (False, None)
    factors = {"groups": {8: {}, 1: {"model.args.num_groups": 1}}}
    grid = read_grid(_write(tmp_path, factors=factors, test=True, reached=1))
    assert (grid.test, grid.reached) == (True, "1")
    assert [cell.name for cell in grid.cells] == ["8", "1"]  # the levels of a single factor
    with pytest.raises(InputError, match=r"unknown cell.* '9'"):
        read_grid(_write(tmp_path, factors=factors, reached=9))


@pytest.mark.parametrize("vary", ["one", "all"])
def test_two_factors_that_contradict_each_other_are_refused(tmp_path, vary):
    wide = {"model.args.embed_dim": 128, "optim.lr": 0.001}
    factors = {"width": {"narrow": {}, "wide": wide}, "optim.lr": [0.002, 0.004]}
    message = "'width: wide' and 'optim.lr: 0.002' are in one cell, and give optim.lr the values"
    with pytest.raises(InputError, match=message):
        read_grid(_write(tmp_path, factors=factors, vary=vary))
