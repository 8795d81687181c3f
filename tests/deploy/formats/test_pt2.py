""".pt2 files, without kat."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from kat.deploy import open_model
from kat.errors import InputError
from tests.deploy.distance import distance

pytestmark = pytest.mark.slow


def test_a_pt2_file_runs_in_a_program_without_kat(stored):
    code = f"""
import json, sys, torch
files = {{"kat": ""}}
program = torch.export.load({str(stored.file("resizable.pt2"))!r}, extra_files=files)
assert all("kat" not in str(node.target) for node in program.graph.nodes if node.op[:4] == "call")
logits = program.module()(torch.arange(128.0).reshape(2, 1, 8, 8).sin())
record = json.loads(files["kat"])
print(json.dumps([logits.tolist(), record["label_names"], "kat" in sys.modules]))
"""
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, cwd=stored.folder,
    )  # fmt: skip
    logits, names, has_kat = json.loads(printed.stdout)
    want = stored.model(torch.arange(128.0).reshape(2, 1, 8, 8).sin())
    assert distance(torch.tensor(logits), want) < 1e-5
    assert names == ["ant", "bee", "cat"]
    assert not has_kat


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pt2_file_that_runs_code_is_opened_only_if_it_is_trusted(stored, tmp_path):
    path, trace = tmp_path / "m.pt2", tmp_path / "ran"
    payload = io.BytesIO()
    torch.save(Payload(trace), payload)
    with (
        zipfile.ZipFile(stored.file("resizable.pt2")) as whole,
        zipfile.ZipFile(path, "w") as changed,
    ):
        for name in whole.namelist():
            is_sample = "sample_inputs" in name and name.endswith(".pt")
            changed.writestr(name, payload.getvalue() if is_sample else whole.read(name))
    with pytest.raises(InputError, match=r"m.pt2 is a program: .* --trust"):
        open_model(path)
    assert not trace.exists()
    with pytest.raises((pickle.UnpicklingError, TypeError, AssertionError)):  # of torch
        open_model(path, trust=True)
    assert trace.exists()  # so that the refusal above is what kept it from running
