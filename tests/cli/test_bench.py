"""kat bench, as a user calls it."""

from __future__ import annotations

import json

from tests.cli.commands import refused, run
from tests.images import write_folder


def test_the_table_the_verdict_and_the_file(tmp_path, capsys):
    write_folder(tmp_path / "data", classes=2, train=4, val=1)
    options = ["--data.name", f"folder:{tmp_path / 'data'}", "--data.image_size", "16"]
    options += ["--data.batch_size", "4", "--need", "1e9", "--try-workers", "[0]"]
    options += ["--seconds", "0.1", "--no-progress", "--json", tmp_path / "bench.json"]
    assert run("bench", "data", "--config", "digits", *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for word in ("workers", "images/s", "read", "decode", "augment", "collate"):
        assert word in captured.out
    assert "The data is the bottleneck: the given model trains at 1,000,000,000" in captured.out
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["bottleneck"] == "data"
    assert result["extrapolated"]
    assert result["loader_images_per_s"]["0"] > 0
    assert result["verdict"] in captured.out


def test_help_and_bad_input(tmp_path, capsys):
    assert run("bench", "--help") == 0
    assert "kat bench data" in capsys.readouterr().out
    assert "unknown command 'dat'; did you mean 'data'" in refused(capsys, "bench", "dat")
    assert "did you mean '--need'" in refused(capsys, "bench", "data", "--neeed", "3")
    missing = tmp_path / "no" / "bench.json"
    assert "does not exist" in refused(capsys, "bench", "data", "--json", missing)
    assert "absent' does not exist" in refused(
        capsys, "bench", "data", "--data.name", f"folder:{tmp_path / 'absent'}", "--no-progress"
    )
