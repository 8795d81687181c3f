"""Times the training loop of 'kat train' against a bare PyTorch loop of the same steps.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --model kat_small_patch16_224 --batch 32 --device cuda

  bare     forward pass, loss, backward pass, step of the optimiser
  run      Trainer.fit with everything that a run has by default: checks that the step is finite,
           schedule, speed, lines, logs to CSV and TensorBoard, checkpoints
  run, EMA the same with a moving average of the weights, whose update a bare loop would have too

Both train a copy of the same model on the same batches, which lie in memory. They take turns within
one Trainer.fit: after each block of steps of the run come as many of the bare loop. Medians over
the blocks, in ms a step of wall time. A row of the logs is written in every block, so with
--block 10 five times as often as the default settings have it. Start, validation and end of the
run are not in the blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from kat.training.lightning_setup import quiet
from kat.training.optimizer import make_optimizer
from lightning.pytorch import Callback, Trainer
from timing import header, keep_freed_memory, print_table, write_csv
from torch import Tensor, nn

from kat.data import Batch, Loader
from kat.models import ModelRecord, build_model
from kat.training import Classifier, ModelConfig, OptimConfig, TrainConfig
from kat.training.run import _make_trainer

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
    record = ModelRecord(
        options.model, [str(i) for i in range(CLASSES)], SIZE, (0.5,) * 3, (0.5,) * 3, "bicubic", 1
    )
    model = build_model(record)
    batches = make_batches(options.batch, options.block)
    with TemporaryDirectory() as out:
        config = TrainConfig(
            out=out,
            epochs=1,
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            limit_val_batches=1,
            log_every_n_steps=options.block,
            model=ModelConfig(options.model),
            optim=OptimConfig(ema_decay=ema_decay),
        )
        turns = Turns(bare_step(deepcopy(model), config, batches, options.device), options)
        with quiet():
            train = Batches(batches * (options.blocks + 1))
            val = Batches(batches[:1])
            trainer, _ = _make_trainer(config, None, train)
            trainer.callbacks.append(turns)
            trainer.fit(Classifier(model, record, config), train, val)
    bare, run = (statistics.median(times[1:]) for times in (turns.bare, turns.run))
    return [options.model, str(options.batch), name, bare, run, 100 * (run / bare - 1)]


class Batches(Loader):
    """Batches that lie in memory, in the place of a loader."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.batch_size = len(batches[0].labels)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


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

    def on_train_start(self, *_: Any) -> None:
        """Starts the clock of the run's first block."""
        self.start = self.now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops the run's clock where a block is complete, and has the bare loop make its own."""
        if (batch_idx + 1) % self.block:
            return
        middle = self.now()
        for index in range(self.block):
            self.step(index)
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
