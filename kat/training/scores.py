"""Loss and accuracy over the images of all processes, and such metrics in checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy


class Scores(nn.Module):
    """Mean loss, top-1 and top-5 over the images of all processes, each counted once.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")

    def update(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the answers of a batch, and gives its mean loss."""
        loss = functional.cross_entropy(logits.float(), labels)
        self.loss.update(loss.expand(len(labels)))
        self.top1.update(logits, labels)
        self.top5.update(logits, labels)
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
