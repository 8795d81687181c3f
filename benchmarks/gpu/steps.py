"""The steps of the report: each gives rows, and raises an error if what it checks is wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlp
import rational
import torch
import train_step
from peer_static import GPUS
from timing import ACCELERATORS, medians, take_turns

import kat
from gpu.page import Row
from gpu.plan import ROOT, Plan
from gpu.run import Emit, Skipped, Step
from kat.machine import cores, processor
from kat.training.provenance import commit


def machine(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Device, versions and commit."""
    accelerator = ACCELERATORS[plan.device]
    if not accelerator.is_available():
        raise Skipped("torch sees no GPU here; --stand-in tries the script on the CPU")
    properties = accelerator.get_device_properties(0)
    facts = {
        "device": accelerator.get_device_name(),
        "devices": accelerator.device_count(),
        "memory, GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": "{}.{}".format(*accelerator.get_device_capability()),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "CUDA": torch.version.cuda or torch.version.hip or "none",
        "torch": torch.__version__,
        **{name: _version(name) for name in ("triton", "timm", "pytest")},
        "kat": kat.__version__,
        "commit": commit(),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {cores()} cores",
    }
    for name, value in facts.items():
        emit({"what": name, "value": str(value)})


def _output(*command: str) -> str:
    """The first line that a program prints; empty where there is no such program or line."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0] if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Recorder:
    """A plugin of pytest: runs a share of the tests, and emits a row for each."""

    def __init__(self, emit: Emit, share: tuple[int, int]) -> None:
        self.emit, self.share = emit, share
        self.collected = 0
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        number, count = self.share
        self.collected = len(items)
        items[:] = items[number::count]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        name = "::".join((report.location[0].rpartition("/")[2], report.location[2]))
        row = {"test": name, "outcome": report.outcome, "s": report.duration}
        if report.outcome == "failed":
            error = _first_error(report.longreprtext)
            self.failed.append(f"{name}: {error}")
            row["error"] = error
        self.emit(row)


def _first_error(text: str) -> str:
    """The first line of pytest's that tells an error, without its mark."""
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line[:1] == "E"]
    return (lines or text.splitlines() or ["no message"])[0]


def tests(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The tests that need a GPU; those of the stand-in interpret the kernels."""
    try:
        import pytest
    except ImportError:
        raise Skipped("pytest is not installed: pip install pytest") from None
    recorder = Recorder(emit, share)
    quiet = ("-q", "--noconftest", "-p", "no:cacheprovider", f"--rootdir={ROOT}")
    os.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = pytest.main([*quiet, *plan.tests], plugins=[recorder])
    if recorder.failed:
        raise AssertionError(f"{len(recorder.failed)} tests failed, first {recorder.failed[0]}")
    none_left = recorder.collected and code == pytest.ExitCode.NO_TESTS_COLLECTED
    if code != pytest.ExitCode.OK and not none_left:
        raise RuntimeError(f"pytest ended with {code}: {_first_error(printed.getvalue())}")


def verify(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """kat verify of the GPU's backends."""
    from kat.analysis.verify import DTYPES, INTERPRETED, Backend, cases, present_backends
    from kat.analysis.verify import verify as compare

    backends, few = [b for b in present_backends()[0] if b.device == plan.device], {}
    if plan.stand_in:
        backends = [Backend(INTERPRETED, partial(kat.rational, impl="triton"))]
        few = {"degrees": ((3, 2),), "names": ("random",), "stride": 64}
    failures, (number, count) = [], share
    for dtype in DTYPES[number::count]:
        found = compare(backends, cases([dtype], **few))
        failures += [result for result in found if not result.ratio <= 1]
        for backend in backends:
            ratios = [result.ratio for result in found if result.backend == backend.name]
            row = {"backend": backend.name, "dtype": dtype, "comparisons": len(ratios)}
            failed = sum(not ratio <= 1 for ratio in ratios)
            emit({**row, "failed": failed, "largest error / tolerance": max(ratios)})
    if failures:
        raise AssertionError(f"{len(failures)} comparisons failed, first {failures[0]}")


def copy(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The bandwidth of a copy within the device's memory: bytes read and written a second."""
    for size in plan.copied:
        source = torch.zeros(size // 4, device=plan.device)
        target = torch.empty_like(source)
        step = partial(target.copy_, source)
        ms = medians(take_turns({"copy": step}, plan.seconds, plan.device))["copy"]
        emit({"size": f"{size / 2**20:g} MiB", "ms": ms, "GB/s": 2 * size / ms / 1e6})


def equal_runs(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Outputs and gradients of equal calls: how many of the later runs have other bits."""
    names, different = ("y", "dx", "da", "db"), 0
    for form, dtype in itertools.product(("A", "B"), (torch.float32, torch.bfloat16)):
        grad, *leaves = _random_case(plan, dtype)
        first, counts = _bits(grad, leaves, form), [0] * len(names)
        for _ in range(plan.runs - 1):
            same = map(torch.equal, first, _bits(grad, leaves, form))
            counts = [count + (not equal) for count, equal in zip(counts, same, strict=True)]
        different += sum(counts)
        others = {f"other {name}": count for name, count in zip(names, counts, strict=True)}
        emit(
            {"form": form, "dtype": str(dtype).removeprefix("torch."), "runs": plan.runs, **others}
        )
    if different:
        raise AssertionError("equal calls gave other bits")


def _random_case(plan: Plan, dtype: torch.dtype) -> list[torch.Tensor]:
    """grad, and x, numerator and denominator to differentiate for."""
    generator = torch.Generator().manual_seed(0)
    grad, x, a, b = (
        torch.randn(shape, generator=generator).to(plan.device)
        for shape in (plan.shape, plan.shape, (1, 6), (8, 4))
    )
    return [grad.to(dtype), *(leaf.requires_grad_() for leaf in (x.to(dtype), a, b))]


def _bits(grad: torch.Tensor, leaves: list[torch.Tensor], form: Any) -> list[torch.Tensor]:
    """The bytes of y, dx, da and db by the GPU kernels."""
    y = kat.rational(*leaves, form=form, impl="triton")
    tensors = (y.detach(), *torch.autograd.grad(y, leaves, grad))
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


def operator(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/rational.py, the candidates in turns."""
    dtypes = ("--dtypes", "bfloat16", "float32", "--seconds", str(plan.seconds or 1e-9))
    for compiled in (False, True):
        shapes = plan.shapes[:1] if compiled else plan.shapes
        flags = ("--compile", "--gigabytes", "0") if compiled else ()  # no reference again
        options = rational.parse(["--device", plan.device, "--shapes", *shapes, *dtypes, *flags])
        for shape, dtype in itertools.product(options.shapes, options.dtypes):
            for passes in rational.PASSES:
                row = rational.cells(rational.measure(shape, dtype, passes, options))
                emit({"compiled": _yes(compiled), **_named(rational.CSV_COLUMNS, row)})


def mlps(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/mlp.py, the candidates in turns, times in ms."""
    size, batch = plan.mlp
    for compiled, amp in itertools.product((False, True), (True, False)):
        flags = [*(("--amp",) if amp else ()), *(("--compile",) if compiled else ())]
        common = ("--device", plan.device, "--batch", str(batch), "--seconds", str(plan.seconds))
        for row in mlp.measure(size, mlp.parse([*common, *flags])):
            emit({"compiled": _yes(compiled), "dtype": _dtype(amp), **_named(mlp.COLUMNS, row)})


def models(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/train_step.py, KAT and ViT in turns, times in ms; float32 is without TF32."""
    little = ACCELERATORS[plan.device].get_device_properties(0).total_memory < 20e9
    for amp, (size, images), compiled in itertools.product(
        (True, False), plan.models.items(), (False, True)
    ):
        part = (2 if little else 1) * (1 if amp else 4)  # float32 takes several times as long
        batch = max(images // part, 1)
        flags = [
            *("--device", plan.device, "--size", size, "--models", "vit", "fused"),
            *("--batch", str(batch), "--seconds", str(plan.seconds)),
            *(("--amp",) if amp else ()),
            *(("--compile", "blocks") if compiled else ()),
        ]
        for row in train_step.measure(train_step.parse(flags)):
            kind = {"dtype": _dtype(amp), "compiled": _yes(compiled), "batch": str(batch)}
            emit({"size": size, **kind, **_named(train_step.COLUMNS, row)})


def peers(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """What Triton compiles of published kernels for this device: benchmarks/peers.py."""
    script = ROOT / "benchmarks" / "peers.py"
    if not script.exists():
        raise Skipped(f"there is no {script.relative_to(ROOT)} in this checkout")
    arch = "{}{}".format(*ACCELERATORS[plan.device].get_device_capability())
    if int(arch) not in GPUS:
        known = ", ".join(map(str, GPUS))
        raise Skipped(f"peers.py has no limits of architecture {arch}, only of {known}")
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "peers.csv"
        command = [
            *(sys.executable, str(script), "--arch", arch, "--csv", str(table)),
            *("--skip", "gradient-error", "program-order", "cpu-time"),
            *(part for peer in plan.peers for part in ("--peer", peer)),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["peers.py failed"])[-1])
        lines = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        emit({name: _number(cell) for name, cell in row.items()})


def _named(columns: Iterable[str], cells: Iterable[str | float]) -> Row:
    return dict(zip(columns, cells, strict=True))


def _number(cell: str) -> str | float:
    try:
        return float(cell)
    except ValueError:
        return cell


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _dtype(amp: bool) -> str:
    return "bfloat16" if amp else "float32"


STEPS = (
    Step("machine", "Machine", machine, 10),
    Step("tests", "GPU tests", tests, 100, shares=8),
    Step("verify", "kat verify", verify, 20, shares=4),
    Step("copy", "Copy bandwidth", copy, 10),
    Step("equal_runs", "Equal runs", equal_runs, 20),
    Step("operator", "Operator", operator, 80),
    Step("mlp", "MLP", mlps, 50),
    Step("peers", "Published kernels", peers, 60),
    Step("models", "Models", models, 200),
)
