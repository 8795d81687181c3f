"""A small model, its record and batches for it, and runs of them that a test puts together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from kat.data import Batch, DeviceTransform
from kat.models import ModelRecord
from kat.training import ModelConfig, TrainConfig
from kat.training.cluster.processes import World
from kat.training.optim.ema import EMA
from kat.training.optim.optimizer import Schedule, make_optimizer
from kat.training.optim.precision import Precision
from kat.training.record.checkpoint import load_checkpoint, raw_weights
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import newest_checkpoint
from kat.training.record.state import Division, TrainState
from kat.training.tasks.classification.task import Classification
from tests.records import RECORD


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it."""


class Kill(Callback):
    """Ends the run after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        if run.state.step == self.step:
            raise Killed


def batches(count: int, size: int = 8) -> list[Batch]:
    """Noise, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.randn(size, 1, 8, 8, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
            [],
        )
        for _ in range(count)
    ]


class Batches:
    """The same batches every epoch, in the place of a loader.

    Args:
        items: the batches.
        before_each: is called when one is asked for.
    """

    def __init__(
        self, items: Sequence[Batch], before_each: Callable[[], object] = lambda: None
    ) -> None:
        self.items, self.before_each = items, before_each
        self.batch_size = len(items[0].labels)
        self.start = 0

    def start_at(self, epoch: int, batch: int) -> None:
        """The next iteration begins at this batch."""
        self.start = batch

    def close(self) -> None:
        """There is nothing to end."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Batch]:
        for item in self.items[self.start :]:
            self.before_each()
            yield item._replace(images=item.images.clone())  # which mixup writes to


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        """Moves on."""
        self.now += seconds


def make_run(
    training: Sequence[Batch] | Batches,
    validation: Sequence[Batch] | Batches | None = None,
    *callbacks: Callback,
    model: nn.Module | None = None,
    record: ModelRecord = RECORD,
    out: Path | None = None,
    model_config: ModelConfig | None = None,
    **settings: Any,
) -> Run:
    """A run on the CPU that goes over these batches, and validates on them or on others.

    Args:
        training, validation: the batches.
        callbacks: all that the run has.
        model: what is trained; by default a small KAT, the same in every call.
        record: of the model.
        out: the run directory.
        model_config: the settings of the model.
        settings: of a TrainConfig.
    """
    if model is None:
        torch.manual_seed(0)
        model = timm.create_model("kat_micro_patch2_8", in_chans=1)
    config = TrainConfig(out=str(out), model=model_config or ModelConfig(), **settings)
    train_loader, val_loader = (
        items if isinstance(items, Batches) else Batches(items)
        for items in (training, training if validation is None else validation)
    )
    cpu = torch.device("cpu")
    optim, accumulate = config.optim, config.optim.accumulate_grad_batches
    task = Classification(config, record)
    precision = Precision(config.precision, cpu)
    model.to(precision.dtype)
    optimizer = make_optimizer(model, optim)
    steps = config.epochs * -(-len(train_loader) // accumulate)
    return Run(
        config=config,
        task=task,
        record=record,
        model=model,
        wrapped=model,
        conversion=None,
        optimizer=optimizer,
        schedule=Schedule(optimizer, optim, config.epochs, steps),
        precision=precision,
        ema=EMA(model, optim.ema_decay) if optim.ema_decay > 0 else None,
        train_loader=train_loader,
        val_loader=val_loader,
        batches=len(train_loader),
        val_batches=len(val_loader),
        epochs=config.epochs,
        device=cpu,
        world=World(),
        state=TrainState(Division(1, train_loader.batch_size, accumulate)),
        metrics=task.make_metrics(),
        raw_metrics=task.make_metrics(),
        prepare=DeviceTransform(record.mean, record.std, config.augment.random_erasing),
        callbacks=list(callbacks),
    )


def restore(run: Run) -> None:
    """Resumes a run from the newest checkpoint in its directory."""
    (run.out / "run.yaml").touch()  # of a run without an id
    checkpoint = newest_checkpoint(run.out)
    run.model.load_state_dict(raw_weights(checkpoint))
    load_checkpoint(run, checkpoint)
