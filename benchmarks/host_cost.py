"""The host's time of a call on a GPU, measured without one: what Python does until the launch.

    python benchmarks/host_cost.py --csv benchmarks/results/host_cost.csv

Triton compiles the kernels for sm_90, as for an H100, and its driver is replaced by one whose
launch does nothing; a real launch takes a few microseconds more. Column "us" is the smallest of
all calls, which take turns; "by Triton" the same call where Triton finds each compiled kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from timing import header, print_table, take_turns, write_csv

from kat.ops import operators
from kat.ops.arguments import Rational
from kat.ops.triton import launch
from tests.ptx.launch import install

SHAPE, GROUPS, DEGREE = (16, 768), 8, (5, 4)
COLUMNS = ("call", "us", "by Triton")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each call")
    parser.add_argument("--csv", type=Path, help="write the table there too")
    options = parser.parse_args()
    install().launcher_cls = lambda source, metadata: lambda *arguments: None
    operators.KERNELS["cpu"] = operators.triton  # the tensors are on the CPU
    launch.INTERPRETED = True
    print(header("cpu"))
    rows = [_row(name, call, options.seconds) for name, call in _calls().items()]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def _calls() -> dict[str, Callable[[], object]]:
    grad, x, y = (torch.randn(SHAPE) for _ in range(3))
    a, b = torch.randn(1, DEGREE[0] + 1), torch.randn(GROUPS, DEGREE[1])
    leaves = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
    f = Rational(a, b)

    def with_autograd() -> None:
        y = operators.Value.apply(*leaves, None, "A", None, None)
        torch.autograd.grad(y, leaves, grad)

    return {
        "launch, forward": partial(launch.forward, f, x, y=y),
        "launch, backward": partial(launch.backward, f, grad, x, dx=y),
        "operator, forward": partial(operators.run_forward, f, x),
        "operator, backward": partial(operators.run_backward, f, grad, x),
        "forward and backward by autograd": with_autograd,
    }


def _row(name: str, call: Callable[[], object], seconds: float) -> tuple[str, float, float]:
    launch.PLANS.clear()
    call()
    kept = dict(launch.PLANS)
    found = {
        key: replace(plan, launches=tuple(replace(one, run=None) for one in plan.launches))
        for key, plan in kept.items()
    }

    def by(plans: dict[object, launch.Plan]) -> None:
        launch.PLANS.update(plans)
        call()

    times = take_turns({"kept": partial(by, kept), "found": partial(by, found)}, seconds, "cpu")
    return name, 1e3 * min(times["kept"]), 1e3 * min(times["found"])


if __name__ == "__main__":
    main()
