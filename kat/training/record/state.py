"""The progress of a run and its results so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kat.ops.operators import kernel_name

_NOUNS = {
    "processes": "number of processes",
    "batch_size": "batch size",
    "accumulate": "setting optim.accumulate_grad_batches",
}


@dataclass(frozen=True)
class Division:
    """Division of the images of an epoch into steps.

    Args:
        processes: the processes that share the data.
        batch_size: images in a batch of each.
        accumulate: batches of a step.
    """

    processes: int
    batch_size: int
    accumulate: int


@dataclass
class TrainState:
    """The state of a run besides weights and optimizer; saved as it is.

    Args:
        division: division of the images of an epoch into steps.
        arithmetic: the :func:`rounding_factors` at the start of the run.
        epoch: complete epochs.
        batch: batches of the current epoch, of each process, whose steps are taken.
        step: optimizer steps in all.
        validating: all batches of the epoch are trained on, and it is to be validated.
        best: the row of the best checkpoint, as in ``history``.
        holds_best: the checkpoint with this state is to become the best one.
        history: one row an epoch, as history.csv has them.
        skipped: the files that were left out, and why.
        seconds: time of training and validation.
    """

    division: Division
    arithmetic: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    step: int = 0
    validating: bool = False
    best: dict[str, float] = field(default_factory=dict)
    holds_best: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain types, for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainState:
        """Undo :meth:`to_dict`."""
        return cls(**{**state, "division": Division(**state["division"])})

    def mark_best(self, metric: str) -> None:
        """Take the newest epoch as the best if no other has a higher :func:`order_of`.

        An epoch that a limit cuts short counts only where there is no other.
        """
        row, whole = self.history[-1], self.batch == 0
        self.holds_best = not self.best or (
            whole and order_of(row, metric) > order_of(self.best, metric)
        )
        if self.holds_best:
            self.best = dict(row)

    def division_change(self, division: Division, batches: int) -> str:
        """Return how epochs of this division and so many batches differ from the run's, or ""."""
        for name, now in vars(division).items():
            before = getattr(self.division, name)
            if before != now:
                noun = _NOUNS[name]
                return f"the {noun} was {before} and is now {now}: resume with {before}"
        whole, begun = (math.ceil(count / division.accumulate) for count in (batches, self.batch))
        if self.step == self.epoch * whole + begun:
            return ""
        return (
            f"an epoch now has {batches} batches, and had another number before: resume with the"
            " images and the limit_train_batches of the run"
        )

    @property
    def epochs_since_best(self) -> int:
        """Complete epochs since the best one."""
        return self.epoch - int(self.best.get("epoch", self.epoch))


def order_of(row: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return the key of epochs: a metric, and for equal ones the lower validation loss.

    On a small validation split many epochs have the same metric. NaN, such as the AP where nothing
    counts, is the lowest.

    Args:
        row: of the history.
        metric: its column; higher is better.
    """
    value, loss = row[metric], row.get("val_loss", 0.0)
    return (-math.inf if math.isnan(value) else value, -math.inf if math.isnan(loss) else -loss)


def rounding_factors(device: torch.device) -> dict[str, str]:
    """Return the factors besides the settings that decide how a run is rounded, by name."""
    found = {"PyTorch": str(torch.__version__)}
    if device.type == "cuda":
        return found | {"GPU": torch.cuda.get_device_name(device)}
    return found | {
        "threads": str(torch.get_num_threads()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "CPU kernel": kernel_name(device),
    }


def rounding_changes(before: dict[str, str], now: dict[str, str]) -> str:
    """Return the changes of :func:`rounding_factors`, e.g. ``threads 2 (1 at the start)``."""
    return ", ".join(
        f"{name} {now[name]} ({value} at the start)"
        for name, value in before.items()
        if now.get(name, value) != value
    )
