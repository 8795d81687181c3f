"""The report of a GPU, with the CPU in its place: every step, and everything that can go wrong."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from packaging.requirements import Requirement

from tests.environment import link, run_in

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_report.py"
STEPS = [
    *("machine", "smoke", "copy", "kernels", "operator", "calls", "models", "registers", "profile"),
    *(
        "tests",
        "large_tests",
        "verify",
        "first_calls",
        "equal_runs",
        "parity",
        "sweep",
        "latency",
        "sanitizer",
        "compiled",
        "mlp",
        "other_models",
        "clocks",
    ),
]


def states(folder: Path) -> dict[str, str]:
    """The state of each step, by its name."""
    return {step["name"]: step["state"] for step in content(folder)["steps"]}


def content(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.release
def test_every_step_runs_with_torch_triton_timm_and_pytest_alone(tmp_path):
    wanted = [Requirement(name) for name in ("torch", "triton", "timm", "pytest")]
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    (tmp_path / "packages").mkdir()
    packages = link(tmp_path / "packages", wanted)
    options = ("--stand-in", "--out", str(tmp_path), "--seconds", "3000")
    done = run_in(packages, code, *options, project=False)
    assert done.returncode == 0, done.stdout + done.stderr
    absent = dict.fromkeys(("registers", "sanitizer", "clocks"), "skipped")  # need NVIDIA's tools
    assert list(states(tmp_path).items()) == list((dict.fromkeys(STEPS, "done") | absent).items())
    found = content(tmp_path)
    steps = {step["name"]: step["rows"] for step in found["steps"]}
    assert all(rows for name, rows in steps.items() if name not in absent)
    assert all(goal["measured"] and goal["met"] is None for goal in found["goals"])
    assert {line["step"] for line in lines(tmp_path)} == {*steps} - {"machine", *absent}
    models = [*steps["models"], *steps["other_models"]]
    kinds = {(row["model"], row["dtype"], row["compiled"]) for row in models}
    assert len(kinds) == len(models) == 2 * 2 * 2
    assert len({tuple(row.values())[:7] for row in steps["smoke"]}) == 8 * 2 * 3
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# GPU report: stand-in (")
    assert "**No GPU has run this.**" in page
    assert page.count("| no GPU |") == len(found["goals"])


def test_a_report_that_is_stopped_has_the_steps_that_were_done(tmp_path):
    command = [sys.executable, str(SCRIPT), "--stand-in", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process.stdout as printed:
        while not next(printed).startswith("Every kernel once"):
            pass
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert states(tmp_path) == {
        "machine": "done",
        "smoke": "stopped",
        **dict.fromkeys(STEPS[2:], "not run"),
    }
    assert {line["step"] for line in lines(tmp_path)} <= {"smoke"}
    page = (tmp_path / "README.md").read_text()
    assert "| Every kernel once | yes | stopped |" in page
    assert "| Latency | no | not run |" in page


def test_the_smoke_covers_all_pairs_of_settings(report):
    from gpu.kernels import pairs_of_settings

    from kat.ops.triton.launch import Sharing

    cases = [*pairs_of_settings(((7, 96), (1, 4112)), "float16")]
    settings = [tuple(vars(case).values()) for case in cases]
    for one, two in itertools.combinations(range(6), 2):
        assert len({(values[one], values[two]) for values in settings}) == 4
    flat = [Sharing.of(math.prod(c.shape), 2, c.shape[1] // 2, 2, 4).flat for c in cases]
    assert flat == [c.shape == (7, 96) for c in cases]


def test_a_kernel_that_is_wrong_fails_the_smoke(report):
    from gpu.kernels import Case, largest_error

    case = Case("A", "float32", (7, 96))
    exact = case.expected(*(t.double() for t in case.tensors("cpu")))["backward"]
    plain = case.expected(*case.tensors("cpu"))["backward"]
    assert largest_error(plain, exact, plain, 2) <= 0.5
    for wrong in (plain[2] * 1.0001, plain[2] * math.nan):
        assert not largest_error((*plain[:2], wrong), exact, plain, 2) <= 1


def test_the_first_call_of_every_kind_is_compared(report, monkeypatch):
    from gpu.first_calls import first_calls, selfcheck, triton

    monkeypatch.setattr(triton, "load", lambda: (None, ""))
    rows, errors = [], []
    monkeypatch.setattr(selfcheck, "largest_error", lambda *kind: errors.pop())
    errors += [0.5] * 20
    first_calls(report.GPU, rows.append, (0, 1))
    assert len({tuple(row.values()) for row in rows}) == 20
    errors += [0.5, 1.5]
    with pytest.raises(AssertionError, match="1 kinds are wrong"):
        first_calls(report.GPU, rows.append, (0, 10))


# ---- steps that go wrong


@pytest.fixture(scope="module")
def report():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("gpu_report")


def facts(plan, emit, share):
    """The device."""
    emit({"what": "device", "value": "NVIDIA Fake 80GB (2)"})


def good(plan, emit, share):
    """One row."""
    emit({"case": "good", "ms": 2.5})


def run(report, tmp_path, *functions, seconds="60", shares=1, optional=()):
    """The exit code of a report of these steps."""
    steps = [
        report.Step(f.__name__, f.__name__, f, 1, shares, f in optional)
        for f in (facts, *functions)
    ]
    return report.main(["--stand-in", "--out", str(tmp_path), "--seconds", seconds], tuple(steps))


def test_a_step_that_goes_wrong_is_named_and_the_next_one_runs(report, tmp_path, capfd):
    def broken(plan, emit, share):
        emit({"case": "first", "ms": 1.0, "nothing": float("nan")})
        raise ValueError("out of luck\nand more")

    def crashes(plan, emit, share):
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(plan, emit, share):
        started = subprocess.Popen(["sleep", "1000"])
        emit({"case": "before", "pid": started.pid})
        signal.pause()

    assert run(report, tmp_path, broken, crashes, hangs, good, seconds="10") == 1
    steps = content(tmp_path)["steps"][1:]
    assert [(step["state"], step["error"]) for step in steps[:2]] == [
        ("failed", "ValueError: out of luck"),
        ("failed", "the process ended with exit code -9"),
    ]
    assert [step["state"] for step in steps[2:]] == ["out of time", "done"]
    first, before, last = lines(tmp_path)
    assert [(line["case"], line["value"]) for line in (first, last)] == [
        ("case first", "1.0"),
        ("case good", "2.5"),
    ]
    stat = Path("/proc", before["value"], "stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "| failed |" in (tmp_path / "README.md").read_text()
    assert "failed after" in capfd.readouterr().out


def test_an_optional_step_that_fails_is_on_the_page_alone(report, tmp_path):
    def broken(plan, emit, share):
        raise ValueError("out of luck")

    assert run(report, tmp_path, broken, good, optional=(broken,)) == 0
    assert "| broken | no | failed |" in (tmp_path / "README.md").read_text()


RUN_TESTS = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
import gpu_report as report
report.STAND_IN = replace(report.STAND_IN, tests=(sys.argv[2],), environment={})
sys.exit(report.main(sys.argv[3:]))
"""
"""In a process of its own: pytest's, from which the step would fork, has threads with locks."""


@pytest.mark.release
def test_a_test_that_fails_is_named_with_its_first_error_line(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.skip(reason='no')\n"
        "def test_skipped(): pass\n"
        "def test_bad(): assert 1 == 2, 'they differ'\n"
    )
    paths = SCRIPT.parent, tmp_path / "test_some.py"
    options = "--stand-in", "--out", tmp_path / "out", "--steps", "tests", "copy"
    command = [sys.executable, "-c", RUN_TESTS, *paths, *options]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 1
    assert states(tmp_path / "out")["copy"] == "done"
    step = content(tmp_path / "out")["steps"][2]
    outcomes = {row["test"]: row["outcome"] for row in step["rows"]}
    assert outcomes == {
        "test_some.py::test_good": "passed",
        "test_some.py::test_skipped": "skipped",
        "test_some.py::test_bad": "failed",
    }
    assert step["state"] == "failed"
    assert (
        "1 tests failed, first test_some.py::test_bad: AssertionError: they differ" in step["error"]
    )
    page = (tmp_path / "out" / "README.md").read_text()
    assert "1 passed, 1 failed, 1 skipped" in page
    assert "test_good" not in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would run")
def test_without_a_gpu_nothing_is_written(report, tmp_path, capsys):
    assert report.main(["--out", str(tmp_path / "out")]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_driver_older_than_the_cuda_of_torch_is_told_with_the_torch_to_install(
    report, tmp_path, capsys, monkeypatch
):
    message = "The NVIDIA driver on your system is too old (found version 12040). Please update"

    def fails():
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fails)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert report.main(["--out", str(tmp_path / "out")]) == 2
    *_, last = capsys.readouterr().out.splitlines()
    assert "driver is older than CUDA 13.0" in last
    assert "pip install --force-reinstall torch" in last


@pytest.mark.parametrize(
    ("capability", "half"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_float16_takes_the_place_of_bfloat16_before_sm_80(report, capability, half, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert report.GPU.dtypes == (half, "float32")
    cases = sys.modules["gpu.kernels"].pairs_of_settings(report.GPU.smoke, half)
    assert {case.dtype for case in cases} == {half, "float32"}


def test_ordinary_and_huge_x_take_one_process(report, monkeypatch):
    steps = sys.modules["gpu.steps"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(steps.Case, "calls", lambda case, *tensors: {})
    seen = []
    monkeypatch.setattr(steps.Case, "tensors", lambda case, device: seen.append(case) or [])
    monkeypatch.setattr(steps.Case, "expected", lambda case, *tensors: {})
    for number in range(3):
        begin = len(seen)
        steps.smoke(report.GPU, print, (number, 3))
        mine = seen[begin:]
        assert {case for case in mine if case.huge} == {
            replace(case, huge=True) for case in mine if not case.huge
        }
    assert len(set(seen)) == 16


# ---- the page


def goals(report, state="done", **rows):
    """Return each goal's measured value, and if it is met, for these rows of the steps."""
    results = [report.Result(name, name, state=state, rows=r) for name, r in rows.items()]
    found = sys.modules["gpu.page"].goals(report.Report(results, stand_in=False))
    return {goal.what: (goal.measured, goal.met) for goal in found}


@pytest.mark.parametrize(("kernel", "limit"), [("forward", 900.0), ("backward", 850.0)])
def test_bandwidth_is_the_least_share_of_the_largest_copy(report, kernel, limit):
    kind = {"kernel": kernel, "gated": "no", "dtype": "bfloat16", "GB/s": 990.0}
    others = [kind | {"gated": "yes", "GB/s": 1.0}, kind | {"dtype": "float32", "GB/s": 1.0}]
    yardstick, other = ("copy", "add") if kernel == "forward" else ("add", "copy")
    copies = [
        {"operation": operation, "size": size, "GB/s": rate}
        for operation, size, rate in (
            (yardstick, "64 MiB", 5000.0), (yardstick, "1024 MiB", 1000.0), (other, "", 1.0),
        )
    ]  # fmt: skip
    what = f"{kernel} at {limit / 1000:.0%} of the bandwidth of {yardstick} or better, 16 bits"
    for slowest, met in ((limit, True), (limit - 1, False)):
        rows = [kind, *others, kind | {"GB/s": slowest}]
        assert goals(report, copy=copies, kernels=rows)[what] == (f"{slowest / 1000:.3f}", met)
    assert goals(report, kernels=rows)[what] == ("", None)
    assert goals(report, copy=copies, kernels=rows[:3])[what] == ("0.990", None)


def test_host_time_is_that_of_a_call_of_kat(report):
    calls = [("forward", "gelu", 5.0), ("forward", "kat", 14.0), ("forward+backward", "kat", 41.0)]
    rows = [dict(zip(("pass", "function", "us"), call, strict=True)) for call in calls]
    found = goals(report, calls=rows)
    assert found["forward below 15 us of the host's time"] == ("14.0 us", True)
    assert found["forward+backward below 40 us of the host's time"] == ("41.0 us", False)


def test_throughput_is_that_of_the_first_size_in_16_bits(report):
    def row(size, dtype, compiled, model, training):
        keys = {"size": size, "dtype": dtype, "compiled": compiled, "model": model}
        return {**keys, "training ratio": training, "inference ratio": 1 / 0.98}

    rows = [
        row("base", "bfloat16", "no", "vit_base", 1.0),
        row("base", "bfloat16", "no", "kat_base", 1 / 0.96),
        row("small", "bfloat16", "no", "kat_small", 1.0),
        row("base", "float32", "no", "kat_base", 1.0),
    ]
    found = goals(report, models=rows)
    shares = [
        found[f"{column} of kat_base at 0.97 of vit_base or better, 16 bits, {how}"]
        for column in ("training", "inference")
        for how in ("eager", "compiled")
    ]
    assert shares == [("0.960", False), ("", None), ("0.980", True), ("", None)]


def test_one_other_bit_or_failed_comparison_misses_its_goal(report):
    equal = {"form": "A", "runs": 20, "other y": 0, "other da": 0}
    exact = {"comparisons": 50, "failed": 0}
    right = goals(report, equal_runs=[equal], verify=[exact])
    wrong = goals(report, equal_runs=[{**equal, "other da": 1}], verify=[exact | {"failed": 1}])
    for what in (
        "equal calls give equal bits: y, dx, da, db",
        "values and gradients are exact to rounding",
    ):
        assert (right[what][1], wrong[what][1]) == (True, False)


@pytest.mark.parametrize("state", ["out of time", "failed", "stopped"])
def test_what_was_not_all_looked_at_is_not_known(report, state):
    rows = {
        "tests": [{"test": "a", "outcome": "passed"}],
        "verify": [{"comparisons": 50, "failed": 0}],
        "equal_runs": [{"runs": 20, "other y": 0}],
    }
    assert {met for _, met in goals(report, state, **rows).values()} == {None}
    rows["tests"].append({"test": "b", "outcome": "failed"})
    assert goals(report, state, **rows)["the GPU tests pass"][1] is False


# ---- the notebook


NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def test_the_notebook_has_no_outputs_and_installs_what_the_project_requires():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    (command,) = (cell.source for cell in code if "pip install" in cell.source)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *itertools.chain(*project["optional-dependencies"].values()),
    ]
    bounds = {line.partition(";")[0] for line in required}
    installed = re.findall(r'"(\w+[<>=].*?)"', command)
    assert len(installed) == 5
    assert set(installed) <= bounds


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would run")
@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.release
def test_each_cell_of_the_notebook_ends_with_a_line_that_says_what_is_missing(
    uploaded, tmp_path, monkeypatch
):
    """Without a GPU; with no upload, and with one that Kaggle has unpacked."""
    client = pytest.importorskip("nbclient")
    if uploaded:
        for name in ("kat", "benchmarks"):
            link = tmp_path / "input" / "set" / "kat" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(ROOT / name, link, ignore=shutil.ignore_patterns("results", "*.csv"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("/kaggle/input", str(tmp_path / "input"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "work").mkdir()
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    client.NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = {cell.id: output_of(cell).splitlines()[-1] for cell in cells}
    expected = {
        "gpu": "no NVIDIA GPU",
        "unpack": "checkout is in kat/" if uploaded else "no checkout: upload kat.tar.gz",
        "install": "are installed",
        "report": "torch sees no GPU here" if uploaded else "checkout is missing",
        "show": "No page was made",
        "pack": "nothing to download",
    }
    assert list(last) == list(expected)
    for name, part in expected.items():
        assert part in last[name]


def output_of(cell) -> str:
    """What a cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)
