"""Accuracy against cost: which models no other model beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kat.analysis.ablation import CellResult, Estimate
from kat.errors import InputError

COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs per image",
    "seconds": "seconds of a training run",
    "memory": "peak memory of a training process (bytes)",
}
"""The costs of a model, with their titles."""

_COLUMNS = {"parameters": "parameters", "flops": "flops", "memory": "memory_bytes"}


@dataclass(frozen=True)
class CostPoint:
    """A model, or a cell of a grid.

    Args:
        label: names it.
        metric: in per cent, the mean over its seeds.
        costs: those of :data:`COSTS` that are known; seconds are the mean over its seeds, the
            others belong to the first.
    """

    label: str
    metric: Estimate
    costs: dict[str, float]

    def cost(self, name: str) -> float:
        """One of :data:`COSTS`.

        Raises:
            InputError: it is not known.
        """
        if name not in self.costs:
            raise InputError(f"{self.label!r} has no {name}; it has {', '.join(self.costs)}")
        return self.costs[name]


def cost_points(results: Sequence[CellResult]) -> list[CostPoint]:
    """The cells that have a run that is done, with their costs.

    Args:
        results: what :func:`kat.analysis.ablation.summarize` returns for the metric.
    """
    return [
        CostPoint(result.name, result.estimate, _costs(result))
        for result in results
        if result.estimate is not None
    ]


def _costs(result: CellResult) -> dict[str, float]:
    measured = {name: result.row.get(column) for name, column in _COLUMNS.items()}
    known = {name: float(value) for name, value in measured.items() if value is not None}
    return {**known, "seconds": result.seconds}


def spans_decades(points: Sequence[CostPoint], cost: str) -> bool:
    """Whether a cost needs a logarithmic axis: its largest value is over ten times its smallest.

    Raises:
        InputError: a point does not have this cost.
    """
    values = [point.cost(cost) for point in points]
    return max(values) > 10 * min(values)


def pareto_front(points: Sequence[CostPoint], cost: str) -> list[CostPoint]:
    """The points that no other beats: none costs at most as much and has a higher mean metric.

    Args:
        points: in any order.
        cost: one of :data:`COSTS`.

    Returns:
        The cheapest first; of points that are equal in both, the first.

    Raises:
        InputError: a point does not have this cost.
    """
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda point: (point.cost(cost), -point.metric.mean)):
        if not front or point.metric.mean > front[-1].metric.mean:
            front.append(point)
    return front
