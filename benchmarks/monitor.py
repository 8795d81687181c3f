"""Times what 'kat train' checks and records: the check that a step is finite, and the monitor.

    python benchmarks/monitor.py
    python benchmarks/monitor.py --cases kat_small_patch16_224:32 --device cuda

  step       forward and backward pass, AdamW
  checked    the same, loss and gradient looked at before the optimiser uses them
  monitored  the same again, recorded by the StabilityMonitor

The candidates take turns, all on the same model; medians in ms of this process's own computing
time on the CPU, of wall time on the GPU. The overhead of the monitor is that of a recorded step
over a checked one, divided by the interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import nn

from kat.analysis import StabilityMonitor

COLUMNS = ("model", "batch", "step", "checked", "monitored", "check %", "monitor %", "interval")
CASES = ("kat_micro_patch4_28:128", "kat_tiny_patch16_224:8")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=CASES, help="MODEL:BATCH")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    keep_freed_memory()
    print(header(options.device))
    rows = [measure(*case.rsplit(":", 1), options) for case in options.cases]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def measure(name: str, batch: str, options: argparse.Namespace) -> list[str | float]:
    """The row of a model and a batch size."""
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    steps = make_steps(name, int(batch), options.device)
    times = medians(take_turns(steps, options.seconds, options.device, clock))
    plain, checked, monitored = times.values()
    interval = StabilityMonitor().interval
    return [
        name,
        batch,
        *times.values(),
        100 * (checked / plain - 1),
        100 * (monitored / checked - 1) / interval,
        str(interval),
    ]


def make_steps(name: str, batch: int, device: str) -> dict[str, Callable[[], None]]:
    """The three candidates."""
    torch.manual_seed(0)
    model = timm.create_model(name).to(device).train()
    images = torch.randn(batch, *model.default_cfg["input_size"], device=device)
    labels = torch.randint(model.num_classes, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    monitor = StabilityMonitor()
    monitor.attach(model)

    def step(check: bool = False, watch: bool = False) -> None:
        if watch:
            monitor.watch()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        if watch:
            monitor.record(0)
        if check:
            numbers = [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
            assert nn.utils.get_total_norm(numbers).isfinite()
        optimizer.step()

    return {
        "step": step,
        "checked": lambda: step(check=True),
        "monitored": lambda: step(check=True, watch=True),
    }


if __name__ == "__main__":
    main()
