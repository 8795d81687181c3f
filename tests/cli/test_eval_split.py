"""``kat eval`` on a folder without a validation split: all models see what is held out."""

from __future__ import annotations

import json
import shutil

import pytest

from kat.models import load_model, save_model
from kat.training.record.run_directory import read_data_record
from tests.cli.commands import run
from tests.images import write_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """photos/CLASS/*.jpg, a run on them by their relative path, its export, its bare weights."""
    folder = tmp_path_factory.mktemp("project")
    write_folder(folder / "all", classes=3, train=10, val=0)
    shutil.move(folder / "all" / "train", folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(
            "train", "--config", "finetune", "--data", "folder:photos", "--data.image_size", 8,
            "--data.channels", 1, "--model.name", "kat_micro_patch2_8", "--model.args",
            "{depth: 1}", "--epochs", 1, "--limit_train_batches", 1, "--out", "run",
            "--accelerator", "cpu", "--no-progress",
        ) == 0  # fmt: skip
        for name in ("run.onnx", "run.pt2"):
            assert run("export", "run", "--out", name) == 0
    save_model(*load_model(folder / "run"), folder / "bare")
    return folder


def _rows(project, tmp_path, *arguments):
    out = tmp_path / "rows.json"
    common = ("--json", out, "--device", "cpu", "--no-progress")
    assert run("eval", *arguments, *common) == 0
    found = json.loads(out.read_text())
    return found if isinstance(found, list) else [found]


def test_a_run_its_exports_and_bare_weights_are_measured_on_the_same_images(project, tmp_path):
    held_out = read_data_record(project / "run")["val"]["images"]
    assert held_out == 3
    models = [project / name for name in ("bare", "run", "run.onnx", "run.pt2")]
    rows = _rows(project, tmp_path, *models, "--trust", "--data", f"folder:{project / 'photos'}")
    assert [row["images"] for row in rows] == [held_out] * 4
    assert len({round(row["loss"], 4) for row in rows}) == 1


@pytest.mark.parametrize("name", ["run.onnx", "run.pt2"])
def test_an_export_finds_the_data_of_its_run(project, tmp_path, name):
    named = ("--data", f"folder:{project / 'photos'}")
    for options in ((), named):
        (row,) = _rows(project, tmp_path, project / name, "--trust", *options)
        assert (row["data"], row["images"]) == (f"folder:{project / 'photos'}", 3)
    (row,) = _rows(project, tmp_path, project / name, "--trust", *named, "--data.holdout", 0)
    assert row["images"] == 30
