"""The example that ``make demo`` runs, and the benchmarks: that they run and write their tables."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from kat.ops.cpu.build import BuildError, find_compiler

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture
def printed_by(monkeypatch, capsys):
    """Runs a script of examples/ in this process, and returns what it prints."""

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        return printed.out

    return run


def test_compare_models_leaves_its_table_its_plots_and_models_that_load(printed_by, tmp_path):
    models = ["kat_micro_patch2_8", "vit_micro_patch2_8"]
    compare = partial(
        printed_by, "compare_models", "--models", *models, "--seeds", 0, "--out", tmp_path,
        "--optim.warmup_epochs", 0, "--limit_train_batches", 2, "--no-progress",
    )  # fmt: skip

    printed = compare("--epochs", "1")
    assert "kat_micro_patch2_8 minus vit_micro_patch2_8" in printed
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["model"], row["seed"]) for row in rows] == [(model, "0") for model in models]
    assert int(rows[0]["parameters"]) - int(rows[1]["parameters"]) == 4 * 2 * (6 + 32)
    for name in ("learning_curves.png", "activations-kat_micro_patch2_8.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    timm.create_model(f"local-dir:{tmp_path / 'kat_micro_patch2_8-seed0'}", pretrained=True)
    assert "seed 0\n" not in compare("--epochs", "1")
    assert "seed 0\n" in compare("--epochs", "2")


@pytest.mark.release
def test_a_package_of_aotinductor_runs_without_python(tmp_path):
    try:
        compiler = find_compiler()
    except BuildError as error:
        pytest.skip(f"no C++ compiler: {error}")
    folder, package = ROOT / "examples" / "aotinductor", tmp_path / "model.pt2"
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    run([sys.executable, folder / "package.py", "digits", package])
    torch_folder = Path(torch.__file__).parent
    include, lib = torch_folder / "include", torch_folder / "lib"
    headers = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = [f"-L{lib}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"]
    host, source = tmp_path / "host", folder / "host.cpp"
    run([*compiler, "-std=c++20", *headers, source, *libraries, "-o", host])
    files = [package, package.with_suffix(".input.bin"), package.with_suffix(".logits.bin")]
    shape = ["2", "1", "8", "8"]
    assert "largest difference" in run([host, *files, *shape]).stdout
    torch.ones(2, 10).numpy().tofile(files[2])
    assert subprocess.run([host, *files, *shape], capture_output=True, check=False).returncode == 1


def test_benchmark_of_the_operator(tmp_path):
    path = tmp_path / "table.csv"
    options = ["--shapes", "2x3x16", "--dtypes", "float32", "--seconds", "0.01", "--csv", path]
    command = [sys.executable, ROOT / "benchmarks" / "rational.py", *options]
    subprocess.run(command, capture_output=True, check=True)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python ")
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"]
    assert all(float(row["gelu ms"]) > 0 and float(row["kat ms"]) > 0 for row in rows)
