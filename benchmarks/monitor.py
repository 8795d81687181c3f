"""Times what 'kat train' checks and records: the check that a step is finite, and the monitor.

    python benchmarks/monitor.py
    python benchmarks/monitor.py --cases kat_small_patch16_224:32 --device cuda

  step       forward and backward pass, AdamW
  checked    the same, loss and gradient looked at before the optimizer uses them
  monitored  the same again, recorded by the StabilityMonitor
  csv        stability.csv written once, of all records of a run of so many epochs

The candidates take turns, all on the same model; medians in ms of this process's own computing
time on the CPU, of wall time on the GPU. The overhead of the monitor is that of a monitored step
over a checked one, divided by the interval, and that of the file: it is written whole after every
epoch, so on average with half the records, over the time of an epoch's steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import nn

import kat
from kat.nn import StabilityMonitor
from kat.nn.stability import write_rows

COLUMNS = (
    "model", "batch", "step", "checked", "monitored", "csv", "check %", "monitor %", "interval"
)  # fmt: skip
CASES = ("kat_micro_patch4_28:128", "kat_tiny_patch16_224:8")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=CASES, help="MODEL:BATCH")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--epochs", type=int, default=20, help="of the run that csv is of")
    parser.add_argument("--epoch-steps", type=int, default=468, help="steps of an epoch")
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
    with TemporaryDirectory() as folder:
        steps, monitor = make_steps(name, int(batch), options.device)
        times = medians(take_turns(steps, options.seconds, options.device, clock))
        epoch = options.epoch_steps
        records = max(1, options.epochs * epoch // monitor.interval)
        write = {"csv": lambda: write_rows(_of_a_run(monitor.rows, records), Path(folder) / "csv")}
        csv = medians(take_turns(write, 0, options.device, clock))["csv"]
    plain, checked, monitored = times.values()
    recording = (monitored - checked) / monitor.interval
    return [
        name,
        batch,
        *times.values(),
        csv,
        100 * (checked / plain - 1),
        100 * (recording + csv / 2 / epoch) / checked,
        str(monitor.interval),
    ]


def _of_a_run(rows: list[dict[str, Any]], records: int) -> list[dict[str, Any]]:
    """The rows of a last record, so many times."""
    step = [row for row in rows if row["step"] == rows[-1]["step"]]
    return step * records


def make_steps(
    name: str, batch: int, device: str
) -> tuple[dict[str, Callable[[], None]], StabilityMonitor]:
    """The three candidates, and the monitor of the third."""
    torch.manual_seed(0)
    model = timm.create_model(name).to(device).train()
    images = torch.randn(batch, *model.default_cfg["input_size"], device=device)
    labels = torch.randint(model.num_classes, (batch,), device=device)
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-4))
    monitor = StabilityMonitor()
    monitor.attach(model)
    recorded = count()

    def step(check: bool = False, watch: bool = False) -> None:
        if watch:
            monitor.watch()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        if watch:
            number = next(recorded)
            monitor.record(number)
        if check:
            numbers = [
                0 * loss.detach(),
                *(p.grad for p in model.parameters() if p.grad is not None),
            ]
            assert nn.utils.get_total_norm(numbers).isfinite()
        optimizer.step()

    candidates = {
        "step": step,
        "checked": lambda: step(check=True),
        "monitored": lambda: step(check=True, watch=True),
    }
    return candidates, monitor


if __name__ == "__main__":
    main()
