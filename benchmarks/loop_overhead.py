"""Times the training loop of 'kat train' against a bare PyTorch loop of the same steps.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --model kat_small_patch16_224 --batch 32 --device cuda

  bare     forward pass, loss, backward pass, step of the optimizer
  run      the loop with all callbacks that a run has by default: checks that the step is finite,
           schedule, throughput, lines, logs to CSV and TensorBoard, checkpoints
  run, EMA the same with an EMA of the weights, whose update a bare loop would have too

Both train a copy of the same model on the same batches, which lie in memory. They take turns within
one run: after each block of steps of the run, the bare loop makes as many. The table has medians
over the blocks, in ms a step of wall time. A row of the logs is written in every block, so with
--block 10 five times as often as by default. Start, validation and end of the run are not in the
blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from timing import header, keep_freed_memory, print_table, write_csv
from torch import Tensor, nn

from kat.data import Batch, DataConfig, ImageDataset
from kat.models import ModelRecord
from kat.training import ModelConfig, OptimConfig, TrainConfig
from kat.training.build import build
from kat.training.callbacks.throughput import Throughput
from kat.training.distributed import World
from kat.training.loop import fit
from kat.training.optim.optimizer import make_optimizer
from kat.training.resolve import ResolvedRun
from kat.training.run import Callback, Run
from kat.training.tasks.classification.task import Classification
from kat.training.trainer import make_callbacks

COLUMNS = ("model", "batch", "loop", "bare", "run", "overhead %")
SIZE, CLASSES = (3, 224, 224), 1000


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="kat_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--blocks", type=int, default=8, help="timed blocks, after one that is not")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    keep_freed_memory()
    print(header(options.device))
    rows = [measure(options, "run", 0.0), measure(options, "run, EMA", 0.9999)]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def measure(options: argparse.Namespace, name: str, ema_decay: float) -> list[str | float]:
    """The row of a run with these settings."""
    torch.manual_seed(0)
    batches = make_batches(options.batch, options.block)
    with TemporaryDirectory() as out:
        config = TrainConfig(
            out=out,
            epochs=1,
            limit_val_batches=1,
            log_every_n_steps=options.block,
            model=ModelConfig(options.model),
            data=DataConfig(batch_size=options.batch),
            optim=OptimConfig(ema_decay=ema_decay),
        )
        run = make_run(config, options, batches)
        turns = Turns(bare_step(deepcopy(run.model), config, batches, options.device), options)
        run.callbacks = [*make_callbacks(run, Throughput()), turns]
        fit(run)
    bare, timed = (statistics.median(times[1:]) for times in (turns.bare, turns.run))
    return [options.model, str(options.batch), name, bare, timed, 100 * (timed / bare - 1)]


def make_run(config: TrainConfig, options: argparse.Namespace, batches: list[Batch]) -> Run:
    """A run of so many blocks, whose loaders are batches in memory."""
    record = ModelRecord(
        options.model, [str(i) for i in range(CLASSES)], SIZE, (0.5,) * 3, (0.5,) * 3, "bicubic", 1
    )
    steps = options.block * (options.blocks + 1)
    data = ImageDataset(Empty(steps * options.batch), record.classes)
    run = build(
        ResolvedRun(
            config=config,
            task=Classification(config, record),
            record=record,
            source=None,
            checkpoint=None,
            data={},
            train_data=data,
            val_data=data,
            device=torch.device(options.device),
            world=World(),
            notes=(),
        )
    )
    run.train_loader, run.val_loader = Batches(batches, steps), Batches(batches, 1)  # type: ignore[assignment]
    return run


class Empty:
    """A source of so many images, none of which is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Its name."""
        return str(index)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The image."""
        raise NotImplementedError


class Batches:
    """Batches that lie in memory, over and over, in the place of a loader."""

    is_stream = False

    def __init__(self, batches: list[Batch], count: int) -> None:
        self.batches = batches
        self.count = count

    def start_at(self, epoch: int, batch: int) -> None:
        """There is one epoch, from its start."""

    def __iter__(self) -> Iterator[Batch]:
        return islice(cycle(self.batches), self.count)


def make_batches(size: int, count: int) -> list[Batch]:
    """Noise."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.randn(size, *SIZE, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
            [],
        )
        for _ in range(count)
    ]


def bare_step(
    model: nn.Module, config: TrainConfig, batches: list[Batch], device: str
) -> Callable[[int], Tensor]:
    """A step of a plain loop, on the batch of that number."""
    model.to(device).train()
    optimizer = make_optimizer(model, config.optim)

    def step(index: int) -> Tensor:
        images, labels, *_ = batches[index % len(batches)]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        return loss

    return step


class Turns(Callback):
    """Lets the bare loop make a block of steps after each block of the run, and times both."""

    def __init__(self, step: Callable[[int], Any], options: argparse.Namespace) -> None:
        self.step = step
        self.block = options.block
        self.cuda = options.device == "cuda"
        self.bare: list[float] = []
        self.run: list[float] = []

    def on_epoch_start(self, run: Run) -> None:
        """Starts the clock of the run's first block."""
        self.start = self.now()

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Stops the run's clock where a block is complete, and has the bare loop make its own."""
        if (index + 1) % self.block:
            return
        middle = self.now()
        for number in range(self.block):
            self.step(number)
        end = self.now()
        self.run.append(1e3 * (middle - self.start) / self.block)
        self.bare.append(1e3 * (end - middle) / self.block)
        self.start = self.now()

    def now(self) -> float:
        """Seconds, with all that a GPU was asked to do done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
