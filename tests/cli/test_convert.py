"""``kat convert`` and ``kat train --init-from``, as a user calls them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
from PIL import Image

import kat
from kat.models import build_model, load_model, save_model
from kat.models.checkpoints.checksum import NO_CHECKSUM, write_checksum
from tests.cli.commands import refused, run
from tests.models.conversion.vits import distance, trained
from tests.records import RECORD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A ViT's file, and the ViT."""
    model = trained(timm.create_model("vit_micro", init_values=1.0))
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    metadata = {"format": "pt", "sha256": NO_CHECKSUM}
    safetensors.torch.save_file(model.state_dict(), path, metadata=metadata)
    write_checksum(path)  # else a warning stands before each refusal
    return path, model


def test_a_file_becomes_a_kat_with_its_report(tmp_path, capsys, vit):
    path, model = vit
    out = tmp_path / "kat"
    scaled = ("--args", "{init_values: 1e-5}")
    assert run("convert", path, "--model", "kat_micro", "--out", out, *scaled) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "8 images of" in printed
    assert "assumed" in printed
    made, record = load_model(out)
    assert record.args["init_values"] == 1e-5
    assert max(distance(made, model)) <= 1e-2
    report = json.loads((out / "conversion.json").read_text())
    assert set(report["fresh"]) == kat.models.rational_parameter_names(made)
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert max(distance(again, made)) == 0


def test_images_args_classes_and_preprocessing(tmp_path, capsys, vit):
    path, _ = vit
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "a.png")
    code = run(
        "convert", path, "--model", "kat_micro", "--out", tmp_path / "kat", "--num-classes", 3,
        "--args", "{degree: [9, 8], init_values: 1e-5}",
        "--images", tmp_path / "a.png", tmp_path / "a.png",
        "--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.2, 0.2,
    )  # fmt: skip
    assert code == 0
    assert "on 2 images" in " ".join(capsys.readouterr().out.split())
    _, record = load_model(tmp_path / "kat")
    assert (record.mean, record.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (len(record.classes), record.args["degree"]) == (3, [9, 8])


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, vit):
    path, _ = vit
    out, full = tmp_path / "kat", tmp_path / "full"
    full.mkdir()
    (full / "note.txt").write_text("keep")
    cases = [
        ([path, "--model", "kat_tiny_patch16_224"], "for (192, 3, 16, 16)"),
        ([path, "--model", "kat_micro"], "8 unexpected (blocks.0.ls1.gamma"),
        ([path, "--model", "kat_micro", "--images", path], "cannot be read as an image"),
    ]
    for arguments, message in cases:
        assert message in refused(capsys, "convert", *arguments, "--out", out)
        assert not out.exists()
    line = refused(capsys, "convert", path, "--model", "kat_micro", "--out", full)
    assert "exists already" in line
    assert [file.name for file in full.iterdir()] == ["note.txt"]


def test_what_cannot_answer_is_refused_by_predict_and_eval(tmp_path, capsys):
    image, answers = tmp_path / "a.png", tmp_path / "answers.json"
    Image.new("RGB", (50, 40), "teal").save(image)
    record = replace(RECORD, args={"in_chans": 1})
    model = build_model(record)
    model.head.bias.data[3] = float("nan")
    save_model(model, record, tmp_path / "whole")
    headless = replace(record, classes=[])
    save_model(build_model(headless), headless, tmp_path / "headless")
    for name, says in (("headless", "has no head"), ("whole", "are not finite")):
        command = ("predict", image, "--checkpoint", tmp_path / name, "--json", answers)
        assert says in refused(capsys, *command)
    data = ("--data", "digits", "--json", answers, "--no-progress")
    assert "not finite" in refused(capsys, "eval", tmp_path / "whole", *data)
    assert not answers.exists()
