"""``kat ablate`` as a user calls it: killed, called again, interrupted, with runs that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kat.analysis.runs import read_runs
from kat.cli.commands.ablate import make_parser, plan_grid
from kat.training.record.provenance import commit
from kat.training.sweep.plan import find_grids
from tests.cli.commands import grid_writer, refused, run
from tests.processes import children, start, wait_until

pytestmark = pytest.mark.slow

TASKS = {"a": {"data.name": "digits"}, "b": {"data.name": "coco:x"}}
MEASURED = {"seconds", "images_per_second", "memory_bytes"}
"""Columns that are not the same in two runs of the same."""

GRID = {
    "title": "Groups of a small one",
    "recipe": "digits",
    "settings": {
        "epochs": 2, "limit_train_batches": 4, "optim.warmup_epochs": 0, "model.args.depth": 1,
        "checkpoint.every_n_steps": 1,
    },
    "seeds": [0],
    "factors": {"groups": {"8": {}, "1": {"model.args.num_groups": 1}}},
}  # fmt: skip
BAD = {"num_groups": 7}
LONG = {**GRID["settings"], "epochs": 500}


@pytest.fixture
def grid(tmp_path):
    return grid_writer(tmp_path, GRID)


def _start(grid: Path, out: Path) -> subprocess.Popen[str]:
    return start("ablate", grid, "--out", out, "--jobs", 1)


def rows_of(path: Path) -> list[dict[str, object]]:
    """The rows of a table, without what is measured anew in each run."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in read_runs(path)]


def test_runs_in_tables_of_earlier_calls_are_not_trained_again(grid, tmp_path, capsys):
    path, first, second = grid(), tmp_path / "first", tmp_path / "second"
    assert run("ablate", path, "--out", first, "--jobs", 2) == 0
    assert GRID["title"] in capsys.readouterr().out
    table = first / "small.csv"
    one, other = read_runs(table)
    assert [(r["cell"], r["groups"], r["status"]) for r in (one, other)] == [
        (name, name, "done") for name in "81"
    ]
    assert one["parameters"] - other["parameters"] == 2 * 7 * 4
    assert one["commit"] == other["commit"] == commit()
    assert all(row[name] for row in (one, other) for name in ("processor", "kernel"))
    assert {p.suffix for p in first.glob("small.*")} == {".csv", ".md", ".svg", ".png"}
    assert run("ablate", path, "--out", second, "--reuse", table) == 0
    assert (second / "small.csv").read_bytes() == table.read_bytes()
    assert not list(second.glob("runs/*"))
    assert "2 of 2" in capsys.readouterr().out
    line = refused(capsys, "ablate", path, "--out", first, "--seeds", 1, "--reuse", table)
    assert "would be overwritten" in line
    assert run("ablate", path, "--out", second, "--seeds", 0, 1, "--reuse", table, "--dry-run") == 0
    states = [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert states == ["finished", "finished", "to do", "to do"]

    # a diverged run of an earlier table stays one, and a failed one is trained


def test_a_second_call_is_refused_and_a_signal_has_all_runs_saved(grid, tmp_path, capsys):
    out = tmp_path / "out"
    process = _start(grid(settings=LONG), out)
    wait_until(lambda: list(out.glob("runs/*/previous.ckpt")), process)
    line = refused(capsys, "ablate", grid(), "--out", out)
    assert str(process.pid) in line
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert (said.count("SIGTERM"), said.count("\n")) == (1, 1)
    assert not list(out.glob("runs/*/summary.json"))
    assert "stopped at step" in next(out.glob("logs/*.log")).read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
@pytest.mark.release
def test_ctrl_c_while_a_run_starts_is_one_line(grid, tmp_path):
    """A terminal sends it to the run, too, which still imports."""
    out = tmp_path / "out"
    options = ("ablate", grid(settings=LONG), "--out", out, "--jobs", 1)
    process = start(*options, start_new_session=True)
    wait_until(lambda: len(children(process.pid)) == 2, process)  # the run, and Python's tracker
    time.sleep(1)  # it is Python, and imports
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert (said.count("SIGINT"), said.count("\n")) == (1, 1)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
@pytest.mark.release
def test_runs_end_with_the_process_that_started_them(grid, tmp_path):
    out = tmp_path / "out"
    process = _start(grid(settings=LONG), out)
    wait_until(lambda: list(out.glob("runs/*/previous.ckpt")), process)
    started = children(process.pid)
    assert started
    process.kill()
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{child}/fd/1").exists() for child in started))
    assert "stopped at step" in next(out.glob("logs/*.log")).read_text()


def test_a_run_that_fails_does_not_stop_the_others(grid, tmp_path, capsys):
    out = tmp_path / "out"
    levels = {
        "high [ours]": {"optim.lr": 1e30},
        "a|b $\\frac$": {},
        "bad [/x]": {"model.args": BAD},
    }
    path = grid(factors={"rate": levels})
    assert run("ablate", path, "--out", out, "--jobs", "1") == 1
    rows = read_runs(out / "small.csv")
    assert [r["status"] for r in rows] == ["diverged", "done", "failed"]
    captured = capsys.readouterr()
    assert captured.err.count("the run in") == 2
    assert "not finite" in captured.err
    # names are shown as they are
    assert "high [ours]" in captured.out
    assert "a\\|b $\\frac$" in (out / "small.md").read_text()
    assert (out / "small.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["componets"], "did you mean 'components'"),
        (["groups", "--set", "model.args.num_groups=4"], "--set model.args.num_groups would"),
        (["groups", "--set", "max_steps=20"], "may not set max_steps"),
        (["groups", "--set", "model.args.act_init=null"], "model.args.act_init is None"),
        (["groups", "--set", "epochs"], "NAME=VALUE, got 'epochs'"),
        (["groups", "--set", "epoch=3"], "the cell '8' of groups: unknown setting 'epoch'"),
        (["groups", "--set", "epochs=0"], "at least 1"),
        (["init", "--set", "model.args.num_group=4"], "did you mean 'num_groups'"),
        (["groups", "init", "groups"], "two grids are named 'groups'"),
    ],
)
def test_what_is_wrong_is_named(arguments, says, tmp_path, capsys):
    assert says in refused(capsys, "ablate", *arguments, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_set_may_override_what_the_grid_sets_for_all_cells(grid):
    path = grid()
    arguments = make_parser().parse_args([str(path), "--set", "epochs=12", "optim.lr=0.5"])
    runs = plan_grid(*find_grids([str(path)]), arguments)
    assert [(r.job.config.epochs, r.job.config.optim.lr) for r in runs] == [(12, 0.5)] * 2
    assert [r.job.config.limit_train_batches for r in runs] == [4] * 2


def test_cells_of_several_tasks_are_refused(grid, tmp_path, capsys):
    path = grid(recipe=None, settings={}, factors={"task": TASKS})
    line = refused(capsys, "ablate", path, "--out", tmp_path / "none")
    assert "box AP" in line


def test_every_ready_made_grid_can_be_planned(tmp_path, capsys):
    from kat.training.settings.recipes import GRIDS, recipe_names

    names = recipe_names(GRIDS)
    assert names == ["components", "degrees", "groups", "init", "models", "paper", "share"]
    assert run("ablate", *names, "--out", tmp_path / "none", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 100
    assert lines[0].startswith("components: KAT")
    assert not (tmp_path / "none").exists()


def test_cells_are_the_models_that_they_are_called_at_any_size():
    from kat.models import KAT, GatedKAT, KANViT, SwiGLUViT, ViT, create_model
    from kat.nn import GroupRational

    for size in ("micro_patch7_28", "tiny_patch16_224"):
        settings = (f"model.name=kat_{size}", "model.args.depth=1")
        parsed = make_parser().parse_args(["models", "--seeds", "0", "--set", *settings])
        built = {}
        for name in ("models", "components"):
            for planned in plan_grid(*find_grids([name]), parsed):
                config = planned.job.config.model
                built[planned.cell.name] = create_model(config.name, **config.args)
        rationals = {
            name: sum(isinstance(m, GroupRational) for m in model.modules())
            for name, model in built.items()
        }
        assert type(built["KAT"]) is KAT
        assert type(built["ViT (GELU)"]) is type(built["no rationals (SiLU)"]) is ViT
        assert type(built["KAT (gated)"]) is GatedKAT
        assert type(built["ViT (SwiGLU)"]) is SwiGLUViT
        assert type(built["ViT + KAN (equal parameters)"]) is KANViT
        counts = {"KAT": 2, "KAT (gated)": 1, "no first rational": 1, "no rationals (SiLU)": 0}
        assert counts.items() <= rationals.items()
        own = built["no grouping, nothing shared"].blocks[0].mlp.act1
        assert own.num_groups == built["KAT"].embed_dim
        assert len(own.weight_numerator) == own.num_groups
        assert built["no mimetic attention"].attn_init == "trunc_normal"
        assert built["no variance-preserving init"].blocks[0].mlp.weight_init == "trunc_normal"


def test_files_that_runs_leave_out_are_named_once(grid, imagenet, tmp_path, capsys):
    for name in ("a.heic", "b.heic"):
        (imagenet / "train" / "n00" / name).write_bytes(b"no image")
    data = {"name": f"folder:{imagenet}", "image_size": 8, "batch_size": 4}
    path = grid(settings={**GRID["settings"], "epochs": 1, "data": data})
    assert run("ablate", path, "--out", tmp_path / "out", "--jobs", 1) == 0
    printed = "".join(capsys.readouterr())
    assert printed.count("skipped 2 files") == 1
