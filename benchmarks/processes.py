"""One process against two with the same global batch: DDP and FSDP2 on the CPU, over gloo.

Trains the same model on the same images by one process with batches of 64, and by two with batches
of 32, as DDP and as FSDP2, and prints the largest difference of the weights, of their EMA and of
every metric. Validation has 360 images in batches of 64 and 32: the last ones are not whole. Mixup,
cutmix and drop path are off, since each process draws its own; the other augmentation is on.

    python benchmarks/processes.py [--optimizer sgd] [--csv benchmarks/results/processes.csv]
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from timing import write_csv

from kat.training import read_history

SETTINGS = shlex.split("""
--config digits --epochs 3 --optim.warmup_epochs 1 --no-progress --accelerator cpu
--model.drop_path 0 --optim.ema_decay 0.9 --optim.clip_grad 1 --augment.random_erasing 0.25
--augment.hflip 0.5 --augment.auto_augment rand-m9-mstd0.5 --limit_train_batches 11
""")
RUNS = {
    "1 process": ["--data.batch_size", "64"],
    "2 processes, ddp": ["--data.batch_size", "32", "--devices", "2"],
    "2 processes, fsdp": ["--data.batch_size", "32", "--devices", "2", "--strategy", "fsdp"],
}


def train(out: Path, optimizer: str, *more: str) -> None:
    """Trains in processes of their own."""
    command = [sys.executable, "-m", "kat_command", "train", *SETTINGS, "--out", str(out)]
    done = subprocess.run(
        [*command, "--optim.name", optimizer, *more], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{out.name} failed:\n{done.stderr}")


def differences(out: Path, reference: Path) -> dict[str, float]:
    """The largest differences of weights, EMA and metrics."""
    ours, theirs = (torch.load(path / "last.ckpt", weights_only=True) for path in (out, reference))
    found = {
        label: max((ours[key][n] - theirs[key][n]).abs().max().item() for n in theirs[key])
        for label, key in (("weights", "raw_state_dict"), ("ema", "state_dict"))
    }
    pairs = zip(read_history(out), read_history(reference), strict=True)
    metrics = [(name, abs(a[name] - b[name])) for a, b in pairs for name in b]
    for name in ("train_loss", "val_loss", "top1"):
        found[name] = max(value for metric, value in metrics if metric.endswith(name))
    return found


def main() -> None:
    """Trains all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--csv", type=Path, help="write the table to this file")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "run0"
        for number, (name, settings) in enumerate(RUNS.items()):
            out = Path(folder) / f"run{number}"
            train(out, options.optimizer, *settings)
            found = differences(out, reference)
            rows.append({"run": name, "optimizer": options.optimizer, **found})
            print(f"{name:<18} " + "  ".join(f"{k} {v:.1e}" for k, v in found.items()), flush=True)
    if options.csv:
        write_csv(options.csv, "cpu", list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
