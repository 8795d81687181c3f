"""Recipes and mappings make the settings that the command line makes of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from kat.cli.options.training_settings import TrainingParser
from kat.errors import InputError
from kat.settings import flat, merged
from kat.training import TrainConfig, settings_to_keep
from kat.training.settings.recipes import (
    GRIDS,
    config_from,
    given_settings,
    nested,
    read_recipe,
    recipe_names,
)
from kat.training.sweep.plan import find_grids


def parsed(content: dict) -> TrainConfig:
    """What jsonargparse makes of nested settings, by other rules for types."""
    parser = TrainingParser()
    values = vars(parser.instantiate(parser.parse_object(content)))
    return TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig)})


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_makes_the_settings_that_the_command_line_makes(name):
    content = read_recipe(name)
    config = config_from(given_settings(content, recipe=content))
    assert config == parsed(content)
    kept = flat(settings_to_keep(config))
    wanted = flat(nested(content))
    assert {n: kept[n] for n in wanted if "." in n} == {n: v for n, v in wanted.items() if "." in n}


@pytest.mark.parametrize("name", recipe_names(GRIDS))
def test_a_cell_of_a_grid_makes_the_settings_that_the_command_line_makes(name):
    for grid in find_grids([name])[:2]:
        for cell in grid.cells[:3]:
            content = merged(nested(read_recipe(grid.recipe)), grid.settings, cell.settings)
            assert config_from(content) == parsed(content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"lr": 1}, "unknown setting 'lr'; did you mean 'optim.lr'?"),
        ({"optim": {"learning_rate": 1}}, "unknown setting 'optim.learning_rate'; did you mean"),
        ({"optim.lr": "1e-3"}, "optim.lr must be a number or 'auto', got '1e-3'"),
        ({"optim": 3}, "optim must be a mapping, got 3"),
        ({"epochs": True}, "epochs must be an integer or 'auto', got True"),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
    ],
)
def test_what_is_wrong_is_named(content, line):
    with pytest.raises(InputError) as error:
        config_from(content)
    assert str(error.value).startswith(line)
    with pytest.raises(InputError, match=r"^the cell: "):
        config_from(content, "the cell: ")


def test_later_settings_win_and_a_resumed_run_keeps_its_own(tmp_path):
    own = {"out": str(tmp_path), "optim": {"lr": 0.5}, "model": {"args": {"depth": 2}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"epochs": 3, "seed": 5, **own}))
    more = {"model.args.num_groups": 4, "optim.lr": 0.1, "out": tmp_path}
    with pytest.raises(InputError, match="already holds a run"):
        given_settings(own, more)
    new = config_from(given_settings(own, more, {"overwrite": True}))
    assert (new.epochs, new.optim.lr, new.model.args) == (10, 0.1, {"depth": 2, "num_groups": 4})
    resumed = config_from(given_settings({"out": tmp_path, "resume": "auto", "seed": 7}))
    assert (resumed.epochs, resumed.optim.lr, resumed.seed) == (3, 0.5, 7)


def test_a_run_of_the_recipe_for_data_of_ones_own_is_resumed_with_its_settings(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("runs/finetune").mkdir(parents=True)
    Path("runs/finetune/run.yaml").write_text("{epochs: 3, out: runs/before}")
    config = config_from(given_settings({"data": "folder:x", "resume": True}))
    assert (config.epochs, config.out, config.optim.clip_grad) == (3, "runs/finetune", 0)


def test_short_names_are_those_of_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("{data: folder:x, model: kat_micro, device: cpu}")
    own = {"monitor": True, "init_from": "runs/vit", "data.batch_size": 3}
    config = config_from(given_settings(own, recipe=read_recipe(tmp_path / "mine.yaml")))
    assert (config.data.name, config.data.batch_size) == ("folder:x", 3)
    assert (config.model.name, config.model.init_from) == ("kat_micro", "runs/vit")
    assert (config.monitor.enabled, config.accelerator) == (True, "cpu")


@pytest.mark.parametrize(
    ("data", "recipe"),
    [
        ("folder:x", "finetune"),
        ("coco:x", "finetune_detection"),
        ("ade:x", "finetune_segmentation"),
    ],
)
def test_a_named_model_keeps_the_recipe_of_the_task_unless_a_recipe_names_one(data, recipe):
    own = {"data.name": data, "model.name": "kat_micro", "epochs": 3}
    config = config_from(given_settings(own))
    assert config == config_from(merged(nested(read_recipe(recipe)), nested(own)))
    assert (config.epochs, config.data.batch_size, config.optim.clip_grad) == (3, "auto", 1)
    partial = {"optim": {"clip_grad": 2.0}}
    assert given_settings(partial, own, recipe=partial)["data"]["batch_size"] == "auto"
    for whole in (read_recipe("none"), {"model": {"name": "kat_tiny"}}):
        assert config_from(given_settings(whole, own, recipe=whole)) == config_from(own)
    built_in = {"data.name": "digits", "model.name": "kat_micro"}
    assert config_from(given_settings(built_in)) == config_from(built_in)


def test_numbers_with_an_exponent_are_numbers_in_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("optim: {lr: 1e-3, min_lr: 1E-05}\nepochs: 3\nout: e-1")
    optim = given_settings(read_recipe(str(tmp_path / "mine.yaml")))["optim"]
    assert (optim["lr"], optim["min_lr"]) == (0.001, 0.00001)
