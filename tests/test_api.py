"""Train, load, predict and evaluate from Python, against the commands and against timm."""

from __future__ import annotations

import json
import signal
import sys
import threading
import types

import numpy as np
import pytest
import torch
from IPython.core.formatters import HTMLFormatter
from PIL import Image

import kat
from kat.errors import InputError
from tests.cli.commands import refused, run
from tests.cli.dense.small_dense import MODELS, pictures
from tests.images import write_photos

QUICK = {"limit_train_batches": 2, "limit_val_batches": 2, "progress": False}
NO_GPU = "mps" if torch.cuda.is_available() else "cuda"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photographs, and a run on them by one line."""
    folder = tmp_path_factory.mktemp("api")
    write_photos(folder / "photos", train=8, val=2)
    data, small = f"folder:{folder / 'photos'}", {"model.args": {"depth": 1}, "optim.lr": 2e-3}
    summary = kat.train(
        "finetune", data=data, model="kat_micro_patch8_64", out=folder / "run", epochs=1, seed=3,
        device="cpu", settings={**small, "optim": {"layer_decay": 1.0}, "data.num_workers": 0},
    )  # fmt: skip
    assert summary.to_dict() == json.loads((folder / "run" / "summary.json").read_text())
    return folder


@pytest.fixture
def model(folder):
    return kat.load(folder / "run", device="cpu")


def test_a_run_has_the_settings_of_the_call(folder, model):
    kept = kat.training.read_settings(folder / "run")
    assert (kept["optim"]["lr"], kept["optim"]["layer_decay"], kept["seed"]) == (0.002, 1.0, 3)
    assert (kept["accelerator"], kept["augment"]["hflip"]) == ("cpu", 0.5)  # of the recipe
    assert (model.classes, model.task) == (["cat", "dog"], "classification")
    assert model.record.architecture == "kat_micro_patch8_64"


def test_an_image_has_one_prediction_in_whatever_form_it_comes(folder, model, tmp_path):
    path = folder / "photos" / "val" / "cat" / "0.png"
    pixels = np.asarray(Image.open(path))
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    forms = [path, str(path), Image.open(path), pixels, tensor]
    torn, cut = tmp_path / "torn.png", tmp_path / "cut.png"
    torn.write_bytes(b"torn")
    cut.write_bytes(path.read_bytes()[:-1000])
    cut_off, *found, bad = model.predict([Image.open(cut), *forms, torn])
    assert (cut_off.image, cut_off.entries) == ("image 0", [])
    assert cut_off.error.startswith("cannot be read: ")
    assert all(one.entries == found[0].entries and not one.error for one in found)
    alone = [model.predict(form).entries for form in forms]
    assert alone == [alone[0]] * 5
    assert [entry["class"] for entry in alone[0]] == [e["class"] for e in found[0].entries]
    assert (bad.entries, bad.image) == ([], str(torn))
    assert bad.error.startswith("cannot be read: ")
    with pytest.raises(InputError, match=str(torn)):
        model.predict(torn)

    rows = tmp_path / "rows.json"
    command = ("predict", path, torn, "--checkpoint", folder / "run", "--json", rows)
    assert run(*command, "--device", "cpu") == 0
    assert run(*command, "--device", "cpu", "--strict") == 1
    first, second = json.loads(rows.read_text())
    assert first == {"image": str(path), "top": alone[0]}
    assert second == {"image": str(torn), "error": bad.error}


def test_a_folder_is_many_images_and_grayscale_is_an_image_too(folder, model):
    found = model.predict(folder / "photos" / "val", top=1)
    assert [len(one.entries) for one in found] == [1] * 4
    assert found[0].image == str(folder / "photos" / "val" / "cat" / "0.png")
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    forms = [gray, gray[..., None], np.stack([gray] * 3, -1), torch.tensor(gray)[None]]
    assert len({str(one.entries) for one in model.predict(forms)}) == 1
    assert model.predict([]) == []
    for wrong in (gray / 255, gray[None], np.zeros((3, 8, 8), np.uint8), 7):
        with pytest.raises(InputError, match="image 0 must"):
            model.predict(wrong)


def test_features_are_what_the_head_of_timms_model_sees(folder, model):
    paths = sorted((folder / "photos" / "val").rglob("*.png"))
    x = torch.stack([kat.data.eval_transform(model.record)(Image.open(path)) for path in paths])
    with torch.no_grad():
        wanted = model.model.forward_head(model.model.forward_features(x), pre_logits=True)
        logits = model.model(x)
    features = model.features(paths, batch_size=3)
    assert features.shape == (4, 64)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, wanted)
    torch.testing.assert_close(model.model.head(features), logits)
    torch.testing.assert_close(model.features(paths[1]), features[1:2])
    with pytest.raises(InputError, match="there is no image"):
        model.features([])


def test_an_evaluation_is_the_commands(folder, model, tmp_path):
    rows = tmp_path / "rows.json"
    command = ("eval", folder / "run", "--json", rows, "--no-progress", "--device", "cpu")
    for options, given in (
        ([], {}),
        (["--image-size", 32, "--crop-pct", 0.5], {"image_size": 32, "crop_pct": 0.5}),
        (["--data", "folder:" + str(folder / "photos"), "--limit", 2], {"limit": 2}),
    ):
        assert run(*command, *options) == 0
        row = json.loads(rows.read_text())
        data = row["data"] if "limit" in given else None
        found = kat.evaluate(folder / "run", data, device="cpu", progress=False, **given).to_dict()
        assert row | found | {"images_per_second": 0} == row | {"images_per_second": 0}
        assert len(found["notes"]) == (2 if "crop_pct" in given else 0)
    again = {"name": row["data"], "num_workers": 0}
    kept = kat.evaluate(model, again, limit=2, keep_logits=True)
    assert kept.predictions.logits.shape == (2, len(model.classes))
    assert f"top-1 {kept.metrics['top1']:.2f} %" in str(kept)
    loaded = kept.to_dict()
    assert {**loaded, "images_per_second": 0} == {**found, "images_per_second": 0}
    with pytest.raises(InputError, match="give image_size to"):
        kat.evaluate(model, image_size=32)


def test_a_model_of_the_hub_has_its_prefix(folder, model):
    on_hub = kat.load(f"hf-hub:{folder / 'run'}")  # a folder of that name comes first
    assert on_hub.classes == model.classes
    for subject in (on_hub, on_hub.source, kat.TrainedModel(model.model, model.record)):
        with pytest.raises(InputError, match="to a run"):
            kat.evaluate(subject)
    with pytest.raises(InputError, match=f"{folder} holds no model"):
        kat.evaluate(folder, "digits")


def test_a_notebook_shows_what_a_model_is_and_a_prediction_with_its_picture(folder, model):
    path = folder / "photos" / "val" / "cat" / "0.png"
    (one,) = model.predict([path], draw=True)
    assert np.array_equal(one.pictures[""], Image.open(path))
    one.entries[0]["class"] = "<b>"
    shown = HTMLFormatter()(one)
    assert "<th>&lt;b&gt;</th>" in shown
    assert (shown.count("<progress "), shown.count("<img ")) == (2, 1)
    assert "<img" not in HTMLFormatter()(model.predict(path))
    assert "<td>classification</td>" in HTMLFormatter()(model)


def test_images_of_another_size(folder):
    model = kat.load(folder / "run", image_size=32, device="cpu")
    assert model.record.input_size == (3, 32, 32)
    assert len(kat.evaluate(model).notes) == 1


@pytest.mark.slow
def test_an_exported_file_predicts_alike(folder, model, tmp_path):
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    file = tmp_path / "model.onnx"
    assert run("export", folder / "run", "--out", file, "--quiet") == 0
    exported = kat.load(file)
    assert exported.classes == model.classes
    pairs = (one.predict(folder / "photos" / "val") for one in (exported, model))
    for got, want in zip(*pairs, strict=True):
        probabilities = [[e["probability"] for e in one.entries] for one in (got, want)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert kat.evaluate(file).metrics["top1"] == kat.evaluate(model).metrics["top1"]
    with pytest.raises(InputError, match="has no features of whole images"):
        exported.features(folder / "photos" / "val")
    (tmp_path / "model.pt2").touch()
    with pytest.raises(InputError, match="is a program"):
        kat.load(tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("task", MODELS)
def test_objects_and_masks(task, items, tmp_path):
    name, args = MODELS[task]
    settings = {"model.args": kat.documents.parse_yaml(args, "args"), "optim.warmup_epochs": 0}
    settings |= {"data.image_size": 64, "data.batch_size": 4, **QUICK}
    kind = "coco" if task == "detection" else "ade20k"
    kat.train(
        f"examples/items_{task}.yaml", data=f"{kind}:{items}", model=name, epochs=1,
        out=tmp_path / "run", device="cpu", settings=settings,
    )  # fmt: skip
    model, (path, *_) = kat.load(tmp_path / "run", device="cpu"), pictures(items)
    assert model.task == task
    options = {"threshold": 0.0} if task == "detection" else {"flip": True}
    one = model.predict(np.asarray(Image.open(path)), draw=True, **options)
    assert not model.predict(path, **options).pictures
    more = ["--threshold", 0] if task == "detection" else ["--flip"]
    rows, out = tmp_path / "rows.json", tmp_path / "pictures"
    command = ("predict", path, "--checkpoint", tmp_path / "run", "--json", rows, "--out", out)
    assert run(*command, "--device", "cpu", *more) == 0
    (row,) = json.loads(rows.read_text())
    assert row["objects" if task == "detection" else "classes"] == one.entries
    assert np.array_equal(one.pictures[""], Image.open(out / f"{path.stem}.png"))
    if task == "segmentation":
        assert np.array_equal(one.mask, Image.open(out / f"{path.stem}_mask.png"))
    with pytest.raises(InputError, match="has no features of whole images"):
        model.features(path)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (lambda run: kat.train("digit"), ("train", "--config", "digit")),
        (lambda run: kat.train(settings={"optim.rate": 1}), ("train", "--config", "RATE")),
        (lambda run: kat.load(run, device=NO_GPU), ("eval", "RUN", "--device", NO_GPU)),
        (lambda run: kat.evaluate(run, "folder:x"), ("eval", "RUN", "--data", "folder:x")),
        (lambda run: kat.evaluate(run, window=32), ("eval", "RUN", "--window", "32")),
    ],
)
def test_errors_are_those_of_the_commands(call, arguments, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RATE").write_text("optim: {rate: 1}")
    with pytest.raises(InputError) as error:
        call(folder / "run")
    words = [folder / "run" if word == "RUN" else word for word in arguments]
    line = refused(capsys, *words).removeprefix("kat: ").strip()
    assert line.removeprefix("--") == " ".join(str(error.value).split())


def test_a_loaded_model_finds_its_run_from_another_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    model = kat.load("run", device="cpu")
    monkeypatch.chdir(tmp_path)
    assert kat.evaluate(model, limit=1, progress=False).images == 1


def test_settings_that_are_no_mapping_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="settings must be"):
        kat.train("digits", settings="optim.lr=1")


def test_training_in_a_notebook(tmp_path, monkeypatch):
    """From another thread, twice in a process, without a trace in signals; not on two devices."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    results = []
    given = {"epochs": 1, "device": "cpu", "settings": {"model.args.depth": 1, **QUICK}}

    def work():
        results.append(kat.train("digits", out=tmp_path / "run", overwrite=True, **given))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert len(results) == 2
    assert results[0].metrics == results[1].metrics
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher"])
    given["settings"] |= {"devices": 2}
    with pytest.raises(InputError, match="2 devices"):
        kat.train("digits", out=tmp_path / "two", **given)
