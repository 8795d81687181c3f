""".pt2 files, without kat."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.deploy.distance import distance

pytestmark = pytest.mark.slow


def test_a_pt2_file_runs_in_a_program_without_kat(stored):
    code = f"""
import json, sys, torch
files = {{"kat": ""}}
program = torch.export.load({str(stored.folder / "resizable.pt2")!r}, extra_files=files)
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
