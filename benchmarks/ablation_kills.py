"""Kills ``kat ablate`` with SIGKILL at random moments until it is through, and compares the tables.

A small grid (digits, a one-block KAT, groups 8, 4 and 1, two seeds) is made once in peace; then
again and again it is killed after a random time and called once more, until it ends by itself. All
columns of the CSV but the measured ones must be those of the first.

    python benchmarks/ablation_kills.py [--trials 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRID = """
title: Groups
recipe: digits
settings: {epochs: 4, model.args.depth: 1, optim.warmup_epochs: 1, checkpoint.every_n_steps: 5}
seeds: [0, 1]
factors:
  model.args.num_groups: [8, 4, 1]
"""
MEASURED = ("seconds", "images_per_second", "memory_bytes")


def start(folder: Path, grid: Path) -> subprocess.Popen[bytes]:
    """Calls kat ablate."""
    command = [sys.executable, "-m", "kat_command", "ablate", str(grid), "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def table(folder: Path) -> list[dict[str, str]]:
    """The rows, without what is measured."""
    with (folder / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def main() -> None:
    """Runs the trials, and ends with an error where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = folder / "groups.yaml"
        grid.write_text(GRID)
        begin = time.perf_counter()
        if start(folder / "clean", grid).wait() != 0:
            raise SystemExit("the undisturbed call failed")
        seconds = time.perf_counter() - begin
        print(f"undisturbed: {seconds:.0f} s, {len(table(folder / 'clean'))} runs")
        equal = 0
        for trial in range(options.trials):
            kills, through = 0, False
            while not through:
                process = start(folder / str(trial), grid)
                try:
                    through = process.wait(generator.uniform(0.2, 1) * seconds) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
            same = table(folder / str(trial)) == table(folder / "clean")
            equal += same
            print(f"trial {trial}: killed {kills} times, {'equal' if same else 'DIFFERENT'}")
    print(f"{equal} of {options.trials} tables equal")
    raise SystemExit(equal < options.trials)


if __name__ == "__main__":
    main()
