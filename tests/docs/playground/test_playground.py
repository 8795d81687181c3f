"""The files that the documentation's pages to play with need."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from kat.analysis.inspect.activations import watch_inputs


@pytest.fixture(scope="module")
def playground(script):
    return script("playground")


def test_files_of_another_version_or_hash_are_not_kept(tmp_path, monkeypatch, playground):
    archive, fetched = tmp_path / "package.tgz", []

    def fetch(package, integrity, names, folder):
        fetched.append(folder.name)
        with tarfile.open(archive, "w:gz") as package:
            for name in (*names, "ort.all.js"):
                content = f"content of {name}".encode()
                member = tarfile.TarInfo(f"package/dist/{name}")
                member.size = len(content)
                package.addfile(member, io.BytesIO(content))
        playground.unpack(archive, names, folder)

    monkeypatch.setattr(playground, "fetch", fetch)
    monkeypatch.setattr(playground, "make_model", lambda out: None)
    for version in ("1.0.0", "1.0.0", "1.0.1"):
        runtime = (f"onnxruntime-web@{version}", "", playground.RUNTIME_FILES)
        monkeypatch.setattr(playground, "RUNTIME", runtime[0])
        monkeypatch.setattr(playground, "PACKAGES", (runtime,))
        made = playground.make(tmp_path)
    assert fetched == ["onnxruntime-web-1.0.0", "onnxruntime-web-1.0.1"]
    folder = tmp_path / "onnxruntime-web-1.0.1"
    assert {path.name for path in folder.iterdir()} == {*playground.RUNTIME_FILES}
    for name in playground.RUNTIME_FILES:
        assert made[f"onnxruntime/{name}"] == folder / name
        assert (folder / name).read_text() == f"content of {name}"
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    playground.check_integrity(archive, f"sha512-{digest}")
    with pytest.raises(SystemExit, match=r"package\.tgz has the hash sha512-.* do not use it"):
        playground.check_integrity(archive, playground.INTEGRITY)


@pytest.mark.slow
def test_the_exported_model_is_the_trained_one(tmp_path, script):
    playground_model = script("playground_model")
    accuracy = playground_model.make(tmp_path, steps=2)
    model = playground_model.new_model()
    model.load_state_dict(load_file(tmp_path / "digit.safetensors"))
    model.eval().requires_grad_(False)
    images, labels = playground_model.read_split("val")
    given = playground_model.normalized(images)
    assert (model(given).argmax(1) == labels).double().mean().item() == accuracy
    session = onnxruntime.InferenceSession(tmp_path / "digit.onnx")
    logits, *inputs = session.run(None, {"image": given[:1].numpy()})
    torch.testing.assert_close(torch.tensor(logits), model(given[:1]), rtol=1e-4, atol=1e-5)
    want = {}
    watch_inputs(model, [given[:1]], want.__setitem__)
    assert [output.name for output in session.get_outputs()] == ["logits", *want]
    for found, x in zip(inputs, want.values(), strict=True):
        # Both hold the same numbers of each group, in another order.
        ours, theirs = torch.tensor(found).sort(1)[0], x.sort(1)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    about = json.loads((tmp_path / "digit.json").read_text())
    assert [len(layer["denominator"]) for layer in about["layers"]] == [8, 8, 8, 8]
    assert about["examples"][4] == (16 * images[labels == 4][0]).round().int().flatten().tolist()
