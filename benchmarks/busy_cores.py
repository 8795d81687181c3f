"""Training beside other processes that use the same CPU cores, by threads and how they wait.

Each run is `kat train` in a process of its own, beside 0, 1 and 2 processes that compute. Prints
the images/s of training and the seconds of the whole command.

    python benchmarks/busy_cores.py [--csv benchmarks/results/busy_cores.csv]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timing import write_csv

COMMON = "--accelerator cpu --no-progress --config digits --optim.warmup_epochs 0"
WORKLOADS = {
    "kat_micro, 8 pixels, batch 64": "--epochs 3",
    "kat_micro, 64 pixels, batch 16": """
        --epochs 1 --limit_train_batches 25 --data.batch_size 16 --data.image_size 64
        --model.name kat_micro_patch2_8 --model.args.patch_size 8 --limit_val_batches 1
    """,
    "kat_tiny, 224 pixels, batch 16": """
        --epochs 1 --limit_train_batches 6 --data.batch_size 16 --data.image_size 224
        --model.name kat_tiny_patch16_224 --limit_val_batches 1
    """,
}
CORES = str(os.cpu_count())
THREADS = {
    "one": {"OMP_NUM_THREADS": "1"},
    "one per core": {"OMP_NUM_THREADS": CORES},
    "one per core, OMP_WAIT_POLICY=passive": {
        "OMP_NUM_THREADS": CORES,
        "OMP_WAIT_POLICY": "passive",
    },
}
COLUMNS = ("workload", "busy processes", "threads", "repeat", "images/s", "seconds")


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps other processes computing."""
    loop = [sys.executable, "-c", "while True: sum(range(100_000))"]
    others = [subprocess.Popen(loop) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(workload: str, environment: dict[str, str]) -> tuple[float, float]:
    """The images/s of training, and the seconds of the command."""
    with tempfile.TemporaryDirectory() as folder:
        settings = shlex.split(f"{COMMON} {WORKLOADS[workload]}")
        command = [sys.executable, "-m", "kat_command", "train", *settings, "--out", folder]
        begun = time.perf_counter()
        subprocess.run(command, env=os.environ | environment, capture_output=True, check=True)
        seconds = time.perf_counter() - begun
        summary = json.loads((Path(folder) / "summary.json").read_text())
    return summary["images_per_second"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="file for the rows")
    options = parser.parse_args()
    rows = []
    for workload in WORKLOADS:
        for others in range(3):
            for repeat in range(options.repeats):
                for name, environment in THREADS.items():
                    with busy(others):
                        speed, seconds = train(workload, environment)
                    rows.append((workload, str(others), name, str(repeat), speed, seconds))
                    print(*rows[-1], sep="  ", flush=True)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


if __name__ == "__main__":
    main()
