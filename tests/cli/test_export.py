"""kat export, and kat predict and kat eval of what it writes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from kat.models import build_model, save_model
from tests.cli.commands import refused, run
from tests.models.small import make_record

pytestmark = pytest.mark.slow

NAMES = ("fixed.onnx", "resizable8.onnx", "fixed.pt2", "hub")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run's folder, what was exported of it, and pictures."""
    folder = tmp_path_factory.mktemp("exported")
    source = folder / "run"
    record = replace(make_record(depth=1), classes=[str(digit) for digit in range(10)])
    save_model(build_model(record), record, source)
    (source / "run.yaml").write_text(yaml.safe_dump({"seed": 5, "data": {"name": "digits"}}))
    metrics = {"top1": 12.5, "top5": 50.0, "epochs": 2}
    (source / "summary.json").write_text(json.dumps(metrics))
    for name in NAMES:
        options = ["--int8", "--dynamic-size"] if "8" in name else []
        assert run("export", source, "--out", folder / name, *options) == 0
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 256, (20, 14 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
    (folder / "pictures" / "2.png").write_bytes(b"torn")
    return folder


def predict(folder, name, *options) -> list:
    answers = folder / "answers.json"
    pictures = sorted((folder / "pictures").iterdir())
    code = run(
        "predict", *pictures, "--checkpoint", folder / name, "--json", answers, "--trust", *options
    )
    assert code == 0
    return json.loads(answers.read_text())


def _assert_same(want, got, tolerance):
    for one, other in zip(want, got, strict=True):
        assert one["image"] == other["image"]
        assert one.get("error") == other.get("error")
        first, second = (
            {guess["class"]: guess["probability"] for guess in answer.get("top", [])}
            for answer in (one, other)
        )
        assert first == pytest.approx(second, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_predict_gives_the_same_answers_whatever_it_runs(exported, name, capsys):
    want = predict(exported, "run", "--batch-size", 1, "--top", 10)
    got = predict(exported, name, "--batch-size", 2, "--top", 10)
    tolerance = 0.05 if "8" in name else 1e-5
    _assert_same(want, got, tolerance)
    assert "1 of 5" in capsys.readouterr().err


def test_what_is_printed_and_on_the_card(exported, tmp_path, capsys):
    card = (exported / "hub" / "README.md").read_text()
    assert "top1: 12.5" in card
    assert "seed: 5" in card
    capsys.readouterr()
    out = tmp_path / "m.pt2"
    assert run("export", exported / "run", "--out", out, "--int8", "--dynamic-size") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"{out}: " in captured.out


def test_a_file_with_its_preprocessing(exported, tmp_path, capsys):
    out = tmp_path / "m.onnx"
    assert run("export", exported / "run", "--out", out, "--with-preprocessing") == 0
    assert "probabilities within " in capsys.readouterr().out
    message = refused(capsys, "predict", exported, "--checkpoint", out)
    assert "without --with-preprocessing" in message


def test_bad_input(exported, tmp_path, capsys):
    source = exported / "run"
    for arguments, message in (
        ([source, "--out", tmp_path / "m", "--int8"], "--int8 has no effect on a folder"),
        ([source, "--out", tmp_path / "m.pt2", "--license", "mit"], "no effect on a .pt2 file"),
        ([source, "--out", tmp_path / "m.pt2", "--format", "timm"], "--format has no effect"),
        ([source, "--out", tmp_path / "m.pt2", "--backbone"], "features_only=True"),
        ([source, "--out", tmp_path / "m.pt2", "--with-preprocessing"], "must end in .onnx"),
        ([source, "--out", source], "is not a model's folder: 'run.yaml' is in it"),
        (
            [source, "--out", tmp_path / "m.onnx", "--with-preprocessing", "--dynamic-size"],
            "--dynamic-size has no effect beside",
        ),
    ):
        assert message in refused(capsys, "export", *arguments)
    assert not list(tmp_path.iterdir())
    picture = exported / "pictures" / "0.png"
    for name, size, message in (
        ("fixed.onnx", 16, "8x8 pixels, got 1x16x16"),
        ("resizable8.onnx", 13, "any multiple of 2x2 pixels"),
    ):
        options = ("--checkpoint", exported / name, "--image-size", size)
        assert message in refused(capsys, "predict", picture, *options)
