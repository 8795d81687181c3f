"""A run accepts only its own checkpoints, and only its best one as the best."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml

from kat.training.tasks.classification.task import ClassificationMetrics
from tests.cli.commands import QUICK, refused, run

pytestmark = pytest.mark.slow

TRAIN = ("train", "--config", "digits", "--epochs", 3, "--optim.warmup_epochs", 0, *QUICK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with the same settings after two of three epochs; of one, the first is the best."""
    folder = tmp_path_factory.mktemp("runs")
    for name, values in (("ours", (90.0, 80.0)), ("theirs", (80.0, 90.0))):
        top1, compute = iter(values), ClassificationMetrics.compute
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                ClassificationMetrics,
                "compute",
                lambda self, top1=top1, compute=compute: {
                    **compute(self),
                    "top1": torch.tensor(next(top1)),
                },
            )
            assert run(*TRAIN, "--limit_epochs", 2, "--out", folder / name) == 0
    return folder


@pytest.fixture
def ours(runs, tmp_path):
    return shutil.copytree(runs / "ours", tmp_path / "ours")


def _content(out):
    return {
        path.relative_to(out): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in out.rglob("*")
        if path.is_file()
    }


def _id(out):
    first, *_ = (out / "run.yaml").read_text().splitlines()
    return first.removeprefix("# run ")


@pytest.mark.parametrize("resume", ["auto", "true"])
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt", "previous.ckpt", "last_good.ckpt"])
def test_a_checkpoint_of_another_run_is_refused_in_one_line(ours, runs, capsys, name, resume):
    if name in ("previous.ckpt", "last_good.ckpt"):  # which is read where those before it are gone
        for gone in ("last.ckpt", "previous.ckpt"):
            (ours / gone).unlink()
    (ours / name).unlink(missing_ok=True)
    shutil.copy(runs / "theirs" / name.replace("last_good", "last"), ours / name)
    before = _content(ours)
    for more in ((), ("--dry-run",)):
        line = refused(capsys, *TRAIN, "--out", ours, "--resume", resume, *more)
        assert f"{ours / name} is of another run: its id is {_id(runs / 'theirs')}" in line
        assert f"{ours / 'run.yaml'} is {_id(ours)}" in line
        assert _content(ours) == before


def test_the_best_checkpoint_of_another_epoch_is_not_taken_for_the_best(ours, capsys):
    for name in ("last.ckpt", "previous.ckpt"):  # of the same run, after epochs 2 and 1
        out = shutil.copytree(ours, ours.with_name(name))
        shutil.copy(out / name, out / "copy")
        (out / "best.ckpt").unlink()
        (out / "copy").rename(out / "best.ckpt")
        capsys.readouterr()
        assert run(*TRAIN, "--out", out, "--resume", "auto") == 0
        told = capsys.readouterr().out
        line = "best.ckpt is not the best checkpoint that last.ckpt records: it is not of epoch 1"
        assert (line in told) == (name == "last.ckpt")
        kept = torch.load(out / "best.ckpt", weights_only=True)["state"]
        assert kept["epoch"] == (3 if name == "last.ckpt" else 1)


def test_all_checkpoints_have_the_id_which_stays_and_is_of_one_run(ours, runs, tmp_path):
    own = _id(ours)
    assert own != _id(runs / "theirs")
    assert run(*TRAIN, "--out", ours, "--resume", "auto") == 0
    assert _id(ours) == own
    names = [path.name for path in ours.glob("*.ckpt")]
    assert sorted(names) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert {torch.load(ours / name, weights_only=True)["run_id"] for name in names} == {own}
    again = ("train", "--config", ours / "run.yaml", "--limit_epochs", 1, *QUICK)
    assert run(*again, "--out", tmp_path / "again") == 0
    assert _id(tmp_path / "again") != own
    assert run(*again, "--out", ours, "--overwrite", "true") == 0
    assert _id(ours) != own


def test_a_run_without_an_id_is_evaluated_but_not_resumed(ours, capsys):
    own, settings, last = _id(ours), ours / "run.yaml", ours / "last.ckpt"
    settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text())))
    line = refused(capsys, *TRAIN, "--out", ours, "--resume", "auto")
    assert f"the id in {settings} is None" in line
    assert f"'# run {own}'" in line
    for path in (ours, ours / "best.ckpt", last):
        assert run("eval", path, "--no-progress") == 0
    settings.write_text(f"# run {own}\n{settings.read_text()}")
    assert run(*TRAIN, "--out", ours, "--resume", "auto", "--dry-run") == 0
