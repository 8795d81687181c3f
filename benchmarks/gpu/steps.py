"""The steps of the report: each gives rows, and raises an error if what it checks is wrong."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import timm
import torch
from timing import ACCELERATORS
from torch import nn

import kat
from gpu import times
from gpu.first_calls import first_calls
from gpu.kernels import Case, largest_error, pairs_of_settings
from gpu.plan import ROOT, Plan
from gpu.run import Emit, Skipped, Step, compute_mode, output
from kat.errors import first_line
from kat.machine import cores, processor
from kat.training.record.provenance import commit


def machine(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Device, versions and commit."""
    accelerator = ACCELERATORS[plan.device]
    if not accelerator.is_available():
        raise Skipped(f"torch sees no GPU here: {_no_gpu()}")
    properties = accelerator.get_device_properties(0)
    facts = {
        "device": accelerator.get_device_name(),
        "devices": accelerator.device_count(),
        "memory, GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": "{}.{}".format(*accelerator.get_device_capability()),
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clock, at most, degrees": _clocks(),
        "compute mode": compute_mode(),
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


def _no_gpu() -> str:
    """Why torch sees no GPU, and what to do."""
    reason = ""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # the former where torch has no CUDA
        reason = first_line(error)
    if "driver on your system is too old" in reason:
        return (
            f"the driver is older than CUDA {torch.version.cuda}, for which this torch was built;"
            " for drivers from 525 on: pip install --force-reinstall torch torchvision --index-url"
            " https://download.pytorch.org/whl/cu126"
        )
    return f"{reason} (--stand-in tries the script on the CPU)"


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


def smoke(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Every kernel once, against the reference in float64: largest error / allowed error.

    Allowed is twice the error of plain PyTorch in the same dtype.
    """
    slack = 4 if plan.stand_in else 2  # the interpreter cuts off where it should round to bfloat16
    number, count = share
    wrong = []
    for place, case in enumerate(pairs_of_settings(plan.smoke, plan.half)):
        if place // 2 % count != number:  # ordinary and huge x take the same kernels
            continue
        tensors = case.tensors(plan.device)
        exact, plain = case.expected(*(t.double() for t in tensors)), case.expected(*tensors)
        for kernel, call in case.calls(*tensors).items():
            ratio = largest_error(call(), exact[kernel], plain[kernel], slack)
            outcome = ("failed", "passed")[ratio <= 1]
            setting = {name: str(value) for name, value in asdict(case).items()}
            emit({"kernel": kernel, **setting, "outcome": outcome, "error / allowed": ratio})
            wrong += [] if ratio <= 1 else [f"{kernel} of {case}"]
    if wrong:
        raise AssertionError(f"{len(wrong)} results are wrong, first {wrong[0]}")


def tests(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The tests that need a GPU; those of the stand-in interpret the kernels."""
    _run_tests("not release", plan, emit, share)


def large_tests(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The tests that need 20 GB of the GPU's memory, alone on the GPU."""
    _run_tests("release", plan, emit, share)


def _run_tests(marked: str, plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    try:
        import pytest
    except ImportError:
        raise Skipped("pytest is not installed: pip install pytest") from None
    recorder = Recorder(emit, share)
    quiet = ("-q", "--noconftest", "-p", "no:cacheprovider", f"--rootdir={ROOT}")
    os.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = pytest.main([*quiet, "-m", marked, *plan.tests], plugins=[recorder])
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
            if not ratios:  # the kernels do not support the dtype
                continue
            row = {"backend": backend.name, "dtype": dtype, "comparisons": len(ratios)}
            failed = sum(not ratio <= 1 for ratio in ratios)
            emit({**row, "failed": failed, "largest error / tolerance": max(ratios)})
    if failures:
        raise AssertionError(f"{len(failures)} comparisons failed, first {failures[0]}")


def equal_runs(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Outputs and gradients of equal calls: how many of the later runs have other bits."""
    names, different = ("y", "dx", "da", "db"), 0
    for form, dtype in itertools.product(("A", "B"), plan.dtypes):
        grad, *leaves = Case(form, dtype, plan.shape).tensors(plan.device)
        for leaf in leaves:
            leaf.requires_grad_()
        first, counts = _bits(grad, leaves, form), [0] * len(names)
        for _ in range(plan.runs - 1):
            same = map(torch.equal, first, _bits(grad, leaves, form))
            counts = [count + (not equal) for count, equal in zip(counts, same, strict=True)]
        different += sum(counts)
        others = {f"other {name}": count for name, count in zip(names, counts, strict=True)}
        emit({"form": form, "dtype": dtype, "runs": plan.runs, **others})
    if different:
        raise AssertionError("equal calls gave other bits")


def _bits(grad: torch.Tensor, leaves: list[torch.Tensor], form: Any) -> list[torch.Tensor]:
    """The bytes of y, dx, da and db by the GPU kernels."""
    y = kat.rational(*leaves, form=form, impl="triton")
    tensors = (y.detach(), *torch.autograd.grad(y, leaves, grad))
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


def sanitizer(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """NVIDIA's compute-sanitizer over every kernel: its last line, and 0 if it found nothing."""
    if shutil.which("compute-sanitizer") is None:
        raise Skipped("compute-sanitizer, of NVIDIA's CUDA toolkit, is not on PATH")
    code = f"from gpu.kernels import run_all; run_all({plan.device!r})"
    # Each tensor has memory of its own, so that addresses beyond its end are seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    failed = []
    for tool in ("memcheck", "racecheck"):
        command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "86")
        script = (*command, sys.executable, "-c", code)
        place = {"cwd": ROOT / "benchmarks", "env": environment}
        done = subprocess.run(script, capture_output=True, text=True, **place)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        emit({"tool": tool, "exit code": done.returncode, "last line": last})
        failed += [tool] if done.returncode else []
    if failed:
        raise AssertionError(f"{' and '.join(failed)} failed")


def parity(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The loss of a small KAT in training, in float32, here and on the CPU, from equal weights.

    Training magnifies rounding. What that makes of a difference is seen on the CPU, where the
    weights of one more training are rounded once more before the first step: allowed is ten times
    its largest difference so far, as each step rounds again.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)  # the CPU's bits do not depend on the machine's cores
    cpu, rounded, here = (
        _losses(*run, plan.training) for run in (("cpu", 0), ("cpu", 1), (plan.device, 0))
    )
    differ = False
    for step in range(plan.training // 4, plan.training + 1, plan.training // 4):
        allowed, difference = (
            max(abs(one - two) for one, two in zip(losses[:step], cpu, strict=False))
            for losses in (rounded, here)
        )
        row = {"step": str(step), "loss": here[step - 1], "loss, CPU": cpu[step - 1]}
        emit({**row, "largest difference": difference, "allowed": 10 * allowed})
        differ |= not difference <= 10 * allowed
    if differ:
        raise AssertionError("the losses differ by more than rounding explains")


def _losses(device: str, roundings: int, steps: int) -> list[float]:
    """The training loss at each step: AdamW, ten noisy patterns to tell apart."""
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch7_28", num_classes=10)
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(10, *model.default_cfg["input_size"], generator=generator)
    for weight in model.parameters():
        signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
        weight.data *= 1 + signs * roundings * torch.finfo(weight.dtype).eps
    model.to(device)
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-3))
    generator.manual_seed(2)
    losses = []
    for _ in range(steps):
        labels = torch.randint(0, 10, (16,), generator=generator)
        noise = torch.randn(16, *patterns.shape[1:], generator=generator)
        images = patterns[labels] + 2 * noise
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def clocks(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Clock of the multiprocessors now, at most, and temperature; the machine's are from before."""
    if not (found := _clocks()):
        raise Skipped("there is no nvidia-smi that knows them")
    emit({"when": "after the report", "clock, at most, degrees": found})


def _clocks() -> str:
    query = "clocks.sm,clocks.max.sm,temperature.gpu"
    return output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")


# The weights are about seconds, of those that the report may take without peers. A session on Colab
# or Kaggle compiles on two cores, where the compiled models take most of them.
STEPS = (
    Step("machine", "Machine", machine, 5),
    Step("smoke", "Every kernel once", smoke, 55, shares=8),
    Step("copy", "Copy bandwidth", times.copy, 5),
    Step("kernels", "Kernels", times.kernels, 30),
    Step("operator", "Operator", times.operator, 25),
    Step("calls", "Calls", times.calls, 10),
    Step("models", "Models", times.models, 300),
    Step("registers", "Registers", times.registers, 10, optional=True),
    Step("profile", "Longest operations", times.profile, 60),
    Step("tests", "GPU tests", tests, 90, shares=8),
    Step("large_tests", "GPU tests of much memory", large_tests, 30),
    Step("verify", "kat verify", verify, 20, shares=4),
    Step("first_calls", "First calls", first_calls, 45, shares=8),
    Step("equal_runs", "Equal runs", equal_runs, 15),
    Step("parity", "Training as on the CPU", parity, 35, optional=True),
    Step("sweep", "Programs and registers", times.sweep, 60, optional=True),
    Step("latency", "Latency", times.latency, 90, optional=True),
    Step("sanitizer", "compute-sanitizer", sanitizer, 40, optional=True),
    Step("peers", "Published kernels", times.peers, 40, optional=True),
    Step("compiled", "Operator, compiled", times.compiled, 40, optional=True),
    Step("mlp", "MLP", times.mlps, 60, optional=True),
    Step("other_models", "Other models", times.other_models, 220, optional=True),
    Step("clocks", "Clocks", clocks, 2, optional=True),
)
