"""The run directory: what a run resumes from, its data, its lock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kat.errors import InputError
from kat.training.record.run_directory import LOCK, remove, take_directory
from tests.cli.commands import ALL_COMMANDS, QUICK, refused, run
from tests.images import write_folder
from tests.processes import start, wait_until

SMALL = (
    "--data.batch_size", 4, "--data.image_size", 16, "--model.args", "{patch_size: 8}",
    "--epochs", 2, "--limit_epochs", 1, "--no-progress",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_is_not_resumed_on_changed_data_unless_that_is_accepted(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    write_folder(data, classes=2, train=4, val=2)
    resume = ("train", "--resume", "true", "--out", out)
    assert run("train", "--data", f"folder:{data}", *SMALL, "--out", out) == 0
    for split in ("train", "val"):
        (data / split / "n00").rename(data / split / "n02")  # the classes change places
    before = {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}
    line = refused(capsys, *resume)
    assert f"is not the data that {out} began with: class 'n00' missing; class 'n02' new" in line
    assert "--accept-changed-data true" in line
    assert {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()} == before
    assert run(*resume, "--limit_epochs", 1, "--accept-changed-data", "true") == 0
    assert "began: class 'n00'" in capsys.readouterr().out
    data.rename(tmp_path / "moved")  # which is no change
    assert run(*resume, "--data", f"folder:{tmp_path / 'moved'}") == 0
    assert "changed" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_a_relative_path_is_evaluated_and_resumed_from_another_folder(
    tmp_path, capsys, monkeypatch
):
    write_folder(tmp_path / "data", classes=2, train=5, val=2)
    for name in ("notes.txt", "0.jpg"):  # no image, an image that cannot be read
        (tmp_path / "data" / "train" / "n00" / name).write_bytes(b"torn")
    monkeypatch.chdir(tmp_path)
    assert run("train", "--data", "folder:data", *SMALL, "--out", "run") == 0
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert len(skipped.splitlines()) == 3
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("eval", "../run", "--no-progress") == 0
    assert f"folder:{tmp_path / 'data'}: top-1" in capsys.readouterr().out
    assert run("train", "--resume", "true", "--out", "../run") == 0
    assert "; 2 files skipped; " in capsys.readouterr().out
    assert (tmp_path / "run" / "skipped.csv").read_text() == skipped


@pytest.mark.slow
def test_a_run_that_was_refused_in_its_first_step_is_begun_again(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    write_folder(data, classes=2, train=2, val=2)
    torn = data / "train" / "n00" / "0.jpg"
    whole = torn.read_bytes()
    torn.write_bytes(b"torn")
    command = ("train", "--data", f"folder:{data}", *SMALL, "--data.bad_images", "fail")
    for _ in range(2):
        assert run(*command, "--out", out) == 2
        assert f"{torn} cannot be" in capsys.readouterr().err
        assert (out / "last.ckpt").exists()
        (out / "thesis.txt").write_text("years of work")
    torn.write_bytes(whole)
    assert run(*command, "--out", out) == 0
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert (out / "thesis.txt").exists()
    remove(out, [path.name for path in out.iterdir() if path.name not in START])
    with pytest.raises(InputError, match="already holds a run"):  # last.ckpt is after a step
        take_directory(out, overwrite=False)


START = {"run.yaml", "data.json", "last.ckpt", "metrics.csv", "tensorboard"}
"""The files of a run before its first step."""


@pytest.mark.parametrize(
    ("names", "replaced"),
    [
        ([], False),
        ([LOCK, ".partial-last.ckpt"], False),
        ([*(START - {"last.ckpt"}), "thesis.txt"], True),
        (["run.yaml"], None),  # perhaps a recipe of the user's
        (["thesis.txt"], None),
        (["run.yaml", "data.json", "history.csv"], None),
        (["run.yaml", "data.json", "previous.ckpt"], None),
        (["run.yaml", "data.json", "last_good.ckpt"], None),
        (["run.yaml", "data.json", "model.safetensors"], None),
    ],
)
def test_a_directory_is_taken_if_it_holds_no_step_of_a_run(tmp_path, names, replaced):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if replaced is None:
        with pytest.raises(InputError, match=r"already holds a run|not a run directory"):
            take_directory(tmp_path, overwrite=False)
    else:
        assert take_directory(tmp_path, overwrite=False) == replaced
    if "run.yaml" in names:
        assert take_directory(tmp_path, overwrite=True)


def test_a_directory_with_a_run_is_refused_before_torch_is_imported(tmp_path):
    """torch takes seconds to import."""
    for name in ("run.yaml", "data.json", "history.csv"):
        (tmp_path / name).write_bytes(b"")
    line = ["train", "--data", "masks:nowhere", "--out", str(tmp_path)]
    command = [sys.executable, "-c", ALL_COMMANDS, json.dumps([line, [*line, "--dry-run"]])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for code, _, error, heavy in json.loads(done.stdout).values():
        assert (code, "already holds a run" in error, heavy) == (2, True, [])


@pytest.mark.slow
def test_a_directory_that_a_run_writes_is_refused_until_that_run_is_gone(tmp_path, capsys):
    out = tmp_path / "run"
    command = ("train", *QUICK, "--model.args", "{depth: 1}", "--data.num_workers", 1, "--out", out)
    first = start(*command, "--epochs", 10_000)
    wait_until((out / "history.csv").exists, first)
    before = (out / "run.yaml").read_bytes()
    for more in ((), ("--resume", "auto"), ("--resume", "true"), ("--overwrite",)):
        line = refused(capsys, *command, *more)
        assert f"{out} is being written by another run (process {first.pid} on " in line
    assert (out / "run.yaml").read_bytes() == before
    first.kill()
    first.communicate()
    assert run(*command, "--resume", "auto", "--limit_epochs", 1) == 0
    assert not (out / LOCK).exists()
