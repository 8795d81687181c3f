"""The script that fits the presets."""

from __future__ import annotations

import json
import re

import pytest

from kat.nn import preset


def test_presets_are_tabled(tmp_path, capsys, monkeypatch, script):
    path = tmp_path / "presets.json"
    monkeypatch.setattr("sys.argv", ["fit_presets.py", str(path)])
    module = script("fit_presets")
    monkeypatch.setattr(module, "PRESETS", {"silu_wide": module.PRESETS["silu_wide"]})
    monkeypatch.setattr(module, "FUNCTIONS", {"silu": module.FUNCTIONS["silu"]})
    module.main()
    entry = json.loads(path.read_text())["presets"]["silu_wide"]["A"]
    assert entry["max_error"] == pytest.approx(preset("silu_wide").max_error, rel=1e-4)
    assert re.search(
        r"silu_wide +A +\[-10, 10\] +1.69e-03 +1.19e-03 +1.7e-03", capsys.readouterr().out
    )
