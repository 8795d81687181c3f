"""The run directory: what a run resumes from, its data, its lock."""

from __future__ import annotations

import pytest

from kat.errors import InputError
from kat.training.record.run_directory import LOCK, locked_run
from tests.cli.commands import QUICK, refused, run
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
    write_folder(tmp_path / "data", classes=2, train=4, val=2)
    monkeypatch.chdir(tmp_path)
    assert run("train", "--data", "folder:data", *SMALL, "--out", "run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("eval", "../run", "--no-progress") == 0
    assert f"folder:{tmp_path / 'data'}: top-1" in capsys.readouterr().out
    assert run("train", "--resume", "true", "--out", "../run") == 0


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


def test_a_directory_is_refused_to_a_second_run_of_the_same_process(tmp_path):
    with locked_run(tmp_path / "run"):
        for _ in range(2):  # the first refusal must not undo the lock
            with (
                pytest.raises(InputError, match=r"\(this process\)"),
                locked_run(tmp_path / "." / "run"),
            ):
                pass
    with locked_run(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
