"""Scores over the images of all processes, and such metrics in checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy


class Score(NamedTuple):
    """One figure of a validation, the higher the better.

    Args:
        name: in the logs and the history.
        label: in what people read.
        format: of its value.
    """

    name: str
    label: str
    format: str = ".2f"


class Scores(nn.Module):
    """What a validation gives over the images of all processes, each counted once."""

    @abstractmethod
    def update(self, output: Any, labels: Any) -> Tensor | None:
        """Counts the answers of a batch, and gives its mean loss where there is one."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The scores by name; all processes must call it."""

    def notes(self, classes: Sequence[str]) -> list[str]:
        """What a user should know of what was counted, by the names of the classes; all processes
        must call it."""
        return []

    @abstractmethod
    def reset(self) -> None:
        """Forgets all."""


class ClassificationScores(Scores):
    """Mean loss, top-1 and top-5 over the images of all processes, each counted once.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")

    def update(self, output: Tensor, labels: Tensor) -> Tensor:
        """Counts the answers of a batch, logits, and gives its mean loss."""
        loss = functional.cross_entropy(output.float(), labels)
        self.loss.update(loss.expand(len(labels)))
        self.top1.update(output, labels)
        self.top5.update(output, labels)
        return loss

    def compute(self) -> dict[str, Tensor]:
        """The loss, and top-1 and top-5 in per cent; all processes must call it."""
        top1, top5 = self.top1.compute(), self.top5.compute()
        return {"loss": self.loss.compute(), "top1": 100 * top1, "top5": 100 * top5}

    def reset(self) -> None:
        """Forgets all."""
        for metric in (self.loss, self.top1, self.top5):
            metric.reset()


def metric_state(metric: Metric) -> dict[str, Any]:
    """What a metric of this process has counted."""
    counted = {name: getattr(metric, name).cpu() for name in metric._defaults}
    return {**counted, "_update_count": metric._update_count}


def set_metric_state(metric: Metric, state: dict[str, Any]) -> None:
    """Has a metric go on from what :func:`metric_state` gave; from nothing, if that is empty."""
    metric.reset()
    for name, value in state.items():
        setattr(metric, name, value.to(metric.device) if isinstance(value, Tensor) else value)
