"""Kills a training run with SIGKILL at random moments, resumes it, and compares the end to the bit.

Each trial starts the same run (two loading workers, RandAugment, random erasing, mixup and cutmix,
drop path, dropout, accumulated gradients, bfloat16, an EMA of the weights, checkpoints within
epochs), kills it with its workers after a random time, and resumes it with ``--resume auto``. The
SHA-256 of the weights, the EMA, the optimizer's moments, the best and the exported weights, and the
metrics of every epoch, must be those of the run that was never killed.

    python benchmarks/kills.py [--trials 20] [--seed 0] [--csv benchmarks/results/kills.csv]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from timing import write_csv

EPOCHS = 4
SETTINGS = shlex.split(f"""
--config digits --epochs {EPOCHS} --optim.warmup_epochs 1 --no-progress
--data.num_workers 2 --data.batch_size 32 --model.drop 0.1 --model.drop_path 0.1
--precision bf16-mixed --optim.ema_decay 0.99 --optim.accumulate_grad_batches 2
--augment.mixup 0.8 --augment.cutmix 1 --augment.random_erasing 0.25
--augment.auto_augment rand-m9-mstd0.5 --augment.hflip 0.5 --checkpoint.every_n_steps 3
""")


def start(out: Path) -> subprocess.Popen[bytes]:
    """Starts the run, or resumes it, in a process group of its own."""
    command = [sys.executable, "-m", "kat_command", "train", *SETTINGS, "--out", str(out)]
    return subprocess.Popen(
        [*command, "--resume", "auto"], stdout=subprocess.DEVNULL, start_new_session=True
    )


def finish(out: Path) -> float:
    """Runs it to its end, and returns the seconds that this took."""
    begin = time.perf_counter()
    if start(out).wait() != 0:
        raise SystemExit(f"{out}: the run failed")
    return time.perf_counter() - begin


def digest(out: Path) -> tuple[str, str, str]:
    """SHA-256 of the weights, of their EMA, and of moments, metrics and the best weights."""
    state = torch.load(out / "last.ckpt", weights_only=True)
    moments = state["optimizer_state"]["state"]
    flat = {f"{i}.{name}": value for i, part in moments.items() for name, value in part.items()}
    parts = (state["raw_state_dict"], state["state_dict"], flat)
    digests = [hashlib.sha256() for _ in parts]
    for sha, part in zip(digests, parts, strict=True):
        for name in sorted(part):
            sha.update(part[name].contiguous().numpy().tobytes())
    best = torch.load(out / "best.ckpt", weights_only=True)["state_dict"]
    exported = load_file(out / "model.safetensors")
    for part in (best, exported):
        for name in sorted(part):
            digests[2].update(part[name].contiguous().numpy().tobytes())
    digests[2].update((out / "history.csv").read_bytes())
    weights, ema, rest = (sha.hexdigest() for sha in digests)
    return weights, ema, rest


def position(out: Path) -> str:
    """Where the newest checkpoint is."""
    if not (out / "last.ckpt").exists():
        return "before the first checkpoint"
    at = torch.load(out / "last.ckpt", weights_only=True)["state"]
    if at["epoch"] == EPOCHS:
        return "after the last epoch"
    return f"epoch {at['epoch'] + 1}, batch {at['batch']}"


def main() -> None:
    """Runs the trials and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--csv", type=Path, help="write the table to this file")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    moments = random.Random(options.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = finish(Path(folder) / "clean")
        clean = digest(Path(folder) / "clean")
        print(f"clean run: {seconds:.1f} s, SHA-256 {clean[0][:16]}, EMA {clean[1][:16]}")
        trial = 0
        while len(rows) < options.trials:
            trial += 1
            out, after = Path(folder) / f"run{trial}", moments.uniform(0.3, 0.9) * seconds
            process = start(out)
            try:
                process.wait(after)
                continue  # it was over before it could be killed
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed = position(out)
            finish(out)
            end = digest(out)
            rows.append(
                {
                    "trial": len(rows) + 1,
                    "killed_after_s": round(after, 1),
                    "resumed_from": killed,
                    "weights_sha256": end[0][:16],
                    "ema_sha256": end[1][:16],
                    "same": str(end == clean),
                }
            )
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    same = sum(row["same"] == "True" for row in rows)
    print(f"{same} of {len(rows)} ended with the bits of the clean run")
    if options.csv:
        write_csv(options.csv, "cpu", list(rows[0]), [list(row.values()) for row in rows])
    raise SystemExit(0 if same == len(rows) else 1)


if __name__ == "__main__":
    main()
