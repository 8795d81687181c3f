"""What a worker process adds to the memory of a machine: the names of a million images.

    python benchmarks/data_memory.py
    python benchmarks/data_memory.py --images 14000000 --workers 8

Forks workers as a loader does; each looks at every name and label once, as over a few epochs.
Prints by how much the memory that is a worker's own has grown (private dirty pages of
/proc/self/smaps_rollup), and the proportional set size of all of them together (Linux).

  list of tuples   (path, label) as torchvision's ImageFolder holds them
  ours             paths and labels as kat.data holds them
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kat.data.packed_strings import PackedStrings
from kat.data.sources.folder import FolderSource

CLASSES = 1000


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(f"{options.images:,} images, {options.workers} workers; MB")
    print(f"{'':<16}{'main':>10}{'grown, each':>14}{'all together':>14}")
    for name, make in (("ours", packed), ("list of tuples", listed)):  # a freed list leaves holes
        before = memory("Private_Dirty")
        look = make(options.images)
        main_process = memory("Private_Dirty") - before
        grown, together = in_workers(look, options.images, options.workers)
        row = (main_process, max(grown), together)
        print(f"{name:<16}{row[0] / 1e6:>10.1f}{row[1] / 1e6:>14.1f}{row[2] / 1e6:>14.1f}")


def names(images: int) -> Iterator[str]:
    """Paths like ImageNet's."""
    for index in range(images):
        folder = f"n{index * CLASSES // images:08}"
        yield f"{folder}/{folder}_{index}.JPEG"


def packed(images: int) -> Callable[[int], object]:
    """Looks at an item as our datasets do."""
    labels = (np.arange(images) * CLASSES // images).astype(np.int32)
    source = FolderSource("/data/imagenet/train", PackedStrings.pack(names(images)), labels)
    return lambda index: (source.name(index), int(source.labels[index]))


def listed(images: int) -> Callable[[int], object]:
    """Looks at an item of a list of tuples."""
    samples = [
        (f"/data/imagenet/train/{name}", index * CLASSES // images)
        for index, name in enumerate(names(images))
    ]
    return samples.__getitem__


def in_workers(look: Callable[[int], object], images: int, workers: int) -> tuple[list[int], int]:
    """The growth of each forked worker that looks at everything, and the size of all."""
    pipes = [os.pipe() for _ in range(workers)]
    hold, release = os.pipe()
    for _, write in pipes:
        if os.fork() == 0:
            before = memory("Private_Dirty")
            for index in range(images):
                look(index)
            os.write(write, f"{memory('Private_Dirty') - before}".ljust(32).encode())
            os.read(hold, 1)  # until all have looked at everything
            os.write(write, f"{memory('Pss')}".ljust(32).encode())
            os._exit(0)
    grown = [int(os.read(read, 32)) for read, _ in pipes]
    os.write(release, b"x" * workers)
    sizes = [int(os.read(read, 32)) for read, _ in pipes]
    for _ in pipes:
        os.wait()
    return grown, sum(sizes)


def memory(field: str) -> int:
    """Bytes of this process, by the kernel's name for the kind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
