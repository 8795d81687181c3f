"""The full KAT-T recipe for ImageNet on a set of its layout: images a second, memory over the run.

Makes 1000 classes of 10 training images and 1 validation image each, JPEGs of ImageNet's usual
sizes (about 500 x 375 pixels, 110 kB) with edges, gradients and noise, in folders that are named as
synsets. Then 'kat train --config imagenet_kat_tiny' trains on them, all of its augmentation on, for
two epochs of so many steps. Meanwhile the resident memory of the process and of its workers is read
five times a second, of workers (those that load training images) what they do not share. Printed
are, of each quarter of the time from the fifth step on, the most that the process had, which is at
the same moment of each step, and the median of a worker, and how far the quarters lie apart.

    python benchmarks/imagenet_layout.py [--data FOLDER] [--steps 12] [--batch-size 32]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo

TRAIN, VAL = 10, 1
QUALITY = 92


def picture(seed: int) -> Image.Image:
    """A gradient with rectangles and noise, about as large as ImageNet's images."""
    rng = np.random.default_rng(seed)
    long, short = rng.integers(480, 521), rng.integers(330, 401)
    height, width = (short, long) if rng.random() < 0.75 else (long, short)
    y, x = np.mgrid[:height, :width]
    slopes = rng.normal(0, 0.2, (2, 3))
    pixels = 128 + (y - height / 2)[..., None] * slopes[0] + (x - width / 2)[..., None] * slopes[1]
    for _ in range(30):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = top + rng.integers(10, 150), left + rng.integers(10, 150)
        pixels[top:bottom, left:right] = rng.integers(0, 256, 3)
    pixels += rng.normal(0, 14, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_class(root: Path, name: str, label: int) -> int:
    """Writes the images of a class; returns their bytes."""
    size = 0
    for split, count in (("train", TRAIN), ("val", VAL)):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            path = folder / f"{name}_{index}.JPEG"
            if not path.exists():
                picture(100 * label + index + (50 if split == "val" else 0)).save(
                    path, "JPEG", quality=QUALITY
                )
            size += path.stat().st_size
    return size


def make(root: Path) -> None:
    """Makes the set, or what is missing of it."""
    names = sorted(ImageNetInfo().label_names())
    with ProcessPoolExecutor() as pool:
        sizes = list(pool.map(write_class, [root] * len(names), names, range(len(names))))
    images = len(names) * (TRAIN + VAL)
    print(f"{len(names)} classes, {images} JPEGs, {sum(sizes) / images / 1e3:.0f} kB each")


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        if children.exists():
            found += map(int, children.read_text().split())
    return found


def resident(pid: int) -> float:
    """Resident memory of a process in MB; 0 of one that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def private(pid: int) -> float:
    """Memory of a process that no other shares, in MB; 0 of one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def watch(process: subprocess.Popen[bytes], workers: int) -> list[tuple[float, float, float]]:
    """Seconds since 1970, memory of a run's process, mean memory of its workers, while it lasts."""
    seen = []
    while process.poll() is None:
        first, *loading = family(process.pid)[: 1 + workers]
        mean = sum(map(private, loading)) / max(len(loading), 1)
        seen.append((time.time(), resident(first), mean))
        time.sleep(0.2)
    return seen


def flatness(name: str, quarters: list[float]) -> str:
    """The values of the quarters, and how far they lie apart."""
    apart = (max(quarters) - min(quarters)) / median(quarters)
    return f"{name} by quarter: {', '.join(f'{q:.0f}' for q in quarters)} MB, apart {apart:.2%}"


def main() -> None:
    """Makes the set, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="make and keep the set in this folder")
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = options.data or Path(folder) / "data", Path(folder) / "run"
        make(data)
        command = [
            sys.executable, "-m", "kat_command", "train", "--config", "imagenet_kat_tiny",
            "--data", f"folder:{data}", "--out", str(out), "--no-progress",
            "--epochs", "6", "--limit_epochs", "2", "--log_every_n_steps", "4",
            "--limit_train_batches", str(options.steps), "--limit_val_batches", "4",
            "--data.batch_size", str(options.batch_size),
            "--data.num_workers", str(options.workers),
        ]  # fmt: skip
        process = subprocess.Popen(command)
        memory = watch(process, options.workers)
        if process.returncode:
            raise SystemExit(process.returncode)
        with (out / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["speed/images_per_second"]]
        seconds = json.loads((out / "summary.json").read_text())["seconds"]
    speeds = [float(row["speed/images_per_second"]) for row in rows]
    waits = [float(row["speed/data_wait"]) for row in rows]
    print(f"images/s {median(speeds[1:]):.1f}, data wait {median(waits[1:]):.1%}")
    trained = memory[-1][0] - seconds  # when training began; the first steps fill what is kept
    warm = trained + 5 * options.batch_size / median(speeds[1:])
    quarters = np.array_split([row for row in memory if row[0] >= warm][:-5], 4)
    print(flatness("memory of the process", [part[:, 1].max() for part in quarters]))
    print(flatness("memory of a worker", [median(part[:, 2]) for part in quarters]))


if __name__ == "__main__":
    main()
