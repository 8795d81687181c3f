"""The steps of the report that measure times and bandwidths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlp
import peer_code
import peers as peers_table
import rational
import timing
import torch
import train_step
from peer_static import GPUS
from timing import ACCELERATORS, medians, take_turns
from torch import Tensor
from torch.profiler import ProfilerActivity

from gpu.kernels import ARRAYS, Case
from gpu.page import Row
from gpu.plan import Plan
from gpu.run import Emit, Skipped
from kat.ops.triton import launch


def copy(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The bandwidth of a copy and of a sum of two arrays: bytes read and written a second.

    A copy moves two arrays as the forward kernel does, ``torch.add(out=)`` three as the backward
    kernel does.
    """
    for size in plan.copied:
        source, other = (torch.zeros(size // 4, device=plan.device) for _ in range(2))
        target = torch.empty_like(source)
        steps = {
            "copy": partial(target.copy_, source),
            "add": partial(torch.add, source, other, out=target),
        }
        found = medians(take_turns(steps, plan.seconds, plan.device))
        for (name, ms), arrays in zip(found.items(), (2, 3), strict=True):
            row = {"operation": name, "size": f"{size / 2**20:g} MiB"}
            emit({**row, "ms": ms, "GB/s": arrays * size / ms / 1e6})


def kernels(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Each kernel alone, without autograd: bytes that it must read or write a second.

    Backward includes the sums for the coefficients; backward of x makes none.
    """
    for shape, dtype, gated in itertools.product(plan.shapes, plan.dtypes, (False, True)):
        case = Case("A", dtype, rational.shapes_of(shape, ())[0], gated=gated)
        grad, *tensors = case.tensors(plan.device)
        calls = case.calls(grad, *tensors)
        found = medians(take_turns(calls, plan.seconds, plan.device))
        for (name, ms), arrays in zip(found.items(), ARRAYS[gated], strict=True):
            moved = arrays * grad.nbytes
            kind = {"kernel": name, "gated": _yes(gated), "dtype": dtype, "shape": shape}
            emit({**kind, "ms": ms, "GB/s": moved / ms / 1e6})


def registers(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Registers a thread and bytes of spills of every kernel, as the driver has loaded it."""
    if plan.stand_in:
        raise Skipped("the interpreter compiles nothing")
    for dtype, gated in itertools.product(plan.dtypes, (False, True)):
        for name, made in _loaded(Case("A", dtype, plan.smoke[0], gated=gated), plan):
            kind = {"kernel": name, "gated": _yes(gated), "dtype": dtype}
            emit({**kind, "registers": made.n_regs, "spills": made.n_spills})


def _loaded(case: Case, plan: Plan) -> Iterator[tuple[str, Any]]:
    """The names of the kernels that a case runs, and what Triton has loaded of them."""
    loaded: dict[str, Any] = {}
    compile_kernel = launch.compiled

    def note(kernel: Any, *arguments: Any, **constants: Any) -> Any:
        made = compile_kernel(kernel, *arguments, **constants)
        loaded[kernel.__name__ if constants.get("SUMS", True) else f"{kernel.__name__} of x"] = made
        return made

    launch.PLANS.clear()
    launch.compiled = note
    try:
        for call in case.calls(*case.tensors(plan.device)).values():
            call()
    finally:
        launch.compiled = compile_kernel
    yield from loaded.items()


def sweep(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Forward and backward in 16 bits with other programs a multiprocessor, and fewer registers.

    "chosen" is what the library runs.
    """
    case = Case("A", plan.half, rational.shapes_of(plan.shapes[0], ())[0])
    grad, *tensors = case.tensors(plan.device)
    options, resident = dict(launch.OPTIONS), launch.resident
    limits, counts = (
        ((None,), (None, 2)) if plan.stand_in else ((None, 64, 48), (None, *range(2, 7)))
    )
    for limit, programs in itertools.product(limits, counts):
        launch.PLANS.clear()
        launch.compiled.cache_clear()
        launch.OPTIONS = options if limit is None else {**options, "maxnreg": limit}
        launch.resident = resident if programs is None else lambda *_, count=programs: count
        calls = case.calls(grad, *tensors)
        steps = {name: calls[name] for name in ("forward", "backward")}
        setting = {"registers at most": str(limit), "programs": str(programs or "chosen")}
        for name, ms in medians(take_turns(steps, plan.seconds / 4, plan.device)).items():
            emit({"kernel": name, **setting, "ms": ms})


def profile(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """The 15 operations that take longest on the device in a training step of KAT and of ViT."""
    size, images = next(iter(plan.models.items()))
    activity = ProfilerActivity.CPU if plan.stand_in else ProfilerActivity.CUDA
    for compiled, name in itertools.product((False, True), ("vit", "fused")):
        options = train_step.parse(_model_flags(plan, size, images, compiled))
        model = train_step.make_model(name, options)
        step = train_step.training_step(model, *train_step.make_batch(options), options)
        step()
        with torch.profiler.profile(activities=[activity]) as profiler:
            step()
            ACCELERATORS[plan.device].synchronize()
        kind = "cpu" if plan.stand_in else "device"
        found = profiler.key_averages()
        times = {row.key: getattr(row, f"self_{kind}_time_total") / 1e3 for row in found}
        total = sum(times.values())
        for key in sorted(times, key=times.__getitem__, reverse=True)[:15]:
            row = {"model": train_step.label(name, options), "compiled": _yes(compiled)}
            emit({**row, "operation": key[:80], "ms": times[key], "share": times[key] / total})


def operator(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/rational.py, the candidates in turns."""
    _operator(plan, emit, plan.shapes)


def compiled(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/rational.py --compile: kat's operator, and F of plain operations ("plain")."""
    _operator(plan, emit, plan.shapes[:1], "--compile", "--gigabytes", "0")  # no reference again


def _operator(plan: Plan, emit: Emit, shapes: Iterable[str], *flags: str) -> None:
    seconds = str(plan.seconds or 1e-9)
    place = ("--device", plan.device, "--seconds", seconds)
    options = rational.parse([*place, "--shapes", *shapes, *flags])
    for shape, dtype in itertools.product(options.shapes, plan.dtypes):
        for passes in rational.PASSES:
            row = rational.cells(rational.measure(shape, dtype, passes, options))
            emit(_named(rational.CSV_COLUMNS, row))


def calls(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """What a call with a tiny x takes of the host's time, in us: of Python, torch and Triton.

    "empty" is an autograd function of as many arguments that computes nothing.
    """
    options = rational.parse(["--device", plan.device])
    for passes in rational.PASSES:
        steps = rational.candidates((2, 16, 64), "float32", passes, options)
        steps["empty"] = _empty_step(passes, plan)
        repeated = {name: partial(_repeat, step, plan) for name, step in steps.items()}
        for name, ms in medians(take_turns(repeated, plan.seconds, "host")).items():
            emit({"pass": passes, "function": name, "us": 1e3 * ms / plan.calls})


class _Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def _empty_step(passes: str, plan: Plan) -> Callable[[], None]:
    x, a, b = (torch.ones(shape, device=plan.device) for shape in ((2, 16, 64), (1, 6), (8, 4)))
    if passes == "forward":
        return rational.forward(lambda x: _Empty.apply(x, a, b), x)
    leaves = [tensor.requires_grad_() for tensor in (x, a, b)]
    return rational.both(lambda x: _Empty.apply(x, a, b), torch.ones_like(x), leaves)


def _repeat(step: Callable[[], None], plan: Plan) -> None:
    """Makes the calls in a row; the GPU, which is faster, then has little left to do."""
    for _ in range(plan.calls):
        step()
    ACCELERATORS[plan.device].synchronize()


def mlps(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/mlp.py, the candidates in turns, times in ms."""
    size, batch = plan.mlp
    for compiled, amp in itertools.product((False, True), (True, False)):
        flags = [*(("--amp", plan.half) if amp else ()), *(("--compile",) if compiled else ())]
        common = ("--device", plan.device, "--batch", str(batch), "--seconds", str(plan.seconds))
        for row in mlp.measure(size, mlp.parse([*common, *flags])):
            emit(
                {"compiled": _yes(compiled), "dtype": _dtype(plan, amp), **_named(mlp.COLUMNS, row)}
            )


def models(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/train_step.py, KAT and ViT in turns, times in ms."""
    size, images = next(iter(plan.models.items()))
    for compiled in (False, True):
        _models(plan, emit, size, images, compiled)


def other_models(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/train_step.py for the other sizes, and in float32, which is without TF32."""
    first = next(iter(plan.models))
    for amp, (size, images), compiled in itertools.product(
        (True, False), plan.models.items(), (False, True)
    ):
        if (amp, size) != (True, first):
            _models(plan, emit, size, images, compiled, amp)


def latency(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """benchmarks/train_step.py with one image: from the call to the end of its work on the GPU."""
    timing.QUEUED = 1
    for compiled in (False, True):
        _models(plan, emit, next(iter(plan.models)), 1, compiled)


def _models(
    plan: Plan, emit: Emit, size: str, images: int, compiled: bool, amp: bool = True
) -> None:
    options = train_step.parse(_model_flags(plan, size, images, compiled, amp))
    for row in train_step.measure(options):
        kind = {"dtype": _dtype(plan, amp), "compiled": _yes(compiled), "batch": str(options.batch)}
        emit({"size": size, **kind, **_named(train_step.COLUMNS, row)})


def _model_flags(plan: Plan, size: str, images: int, compiled: bool, amp: bool = True) -> list[str]:
    """The options of benchmarks/train_step.py."""
    little = ACCELERATORS[plan.device].get_device_properties(0).total_memory < 20e9
    part = (2 if little else 1) * (1 if amp else 4)  # float32 takes several times as long
    return [
        *("--device", plan.device, "--size", size, "--models", "vit", "fused"),
        *("--batch", str(max(images // part, 1)), "--seconds", str(plan.seconds)),
        *(("--amp", plan.half) if amp else ()),
        *(("--compile", "blocks") if compiled else ()),
    ]


def peers(plan: Plan, emit: Emit, share: tuple[int, int]) -> None:
    """Published kernels and kat's: times in turns, and what Triton compiles of them for this GPU.

    The latter is by benchmarks/peers.py.
    """
    for dtype, kernel in itertools.product(plan.dtypes, ("forward", "backward")):
        case = Case("A", dtype, rational.shapes_of(plan.shapes[0], ())[0], rows=(8, 8))
        grad, x, *coefficients = case.tensors(plan.device)
        steps = {"kat": case.calls(grad, x, *coefficients)[kernel]}
        setting = f"{dtype} {plan.shapes[0]}"
        for name, folder in map(peer_code.parse_peer, plan.peers):
            a, b = (c.to(plan.device) for c in peer_code.coefficients_of(name))
            step = partial(_peer_kernel, name, folder, kernel, grad, x, a, b)
            if failure := peer_code.attempted(step):
                emit({"provider": name, "operation": kernel, "error": failure[0][2]})
            else:
                steps[name] = step
        for name, ms in medians(take_turns(steps, plan.seconds, plan.device)).items():
            emit({"provider": name, "operation": kernel, "setting": setting, "ms": ms})
    arch = "{}{}".format(*ACCELERATORS[plan.device].get_device_capability())
    if plan.stand_in or int(arch) not in GPUS:
        raise Skipped(
            f"what Triton compiles is read on a GPU of one of {', '.join(map(str, GPUS))}"
        )
    given = [part for peer in plan.peers for part in ("--peer", peer)]
    skipped = ("--skip", "gradient-error", "program-order", "cpu-time")
    options = peers_table.parse(["--arch", arch, *skipped, *given])
    for row in peers_table.table({"kat": None, **dict(options.peer)}, options):
        emit(row._asdict())


def _peer_kernel(name: str, folder: Path, kernel: str, grad: Tensor, *inputs: Tensor) -> None:
    """Runs a peer's kernel, or its code in plain PyTorch."""
    code = peer_code.provider_of(name).triton
    if kernel == "backward":
        peer_code.gradient_function(name, folder)(grad, *inputs)
    elif code:
        code.forward(peer_code.load(code.file, folder), *inputs)
    else:
        peer_code.cpu_function(name, folder)(*inputs)


def _named(columns: Iterable[str], cells: Iterable[str | float]) -> Row:
    return dict(zip(columns, cells, strict=True))


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _dtype(plan: Plan, amp: bool) -> str:
    return plan.half if amp else "float32"
