"""What the benchmarks of fine-tuning share: the table of their runs, parameter groups, costs.

The runs themselves, their rows and the choice of the rates, are those of examples/domains/rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timing import print_table
from torch import Tensor, nn

from examples.domains.rows import Runs

COSTS = ("parameters", "optimizer bytes", "seconds")


def print_runs(
    runs: Runs,
    arms: Sequence[str],
    measures: Sequence[str],
    minus: Sequence[str] = (),
    digits: int = 3,
) -> None:
    """Prints the means of the tests with their 95 % intervals.

    Args:
        runs: the runs.
        arms: the rows, left out where an arm has no tests yet.
        measures: the columns.
        minus: arms from which the differences in the last measure are taken, seed by seed.
        digits: after the point.
    """
    tested = runs.tested(arms)
    minus = [other for other in minus if other in tested]
    table = []
    for arm in tested:
        rows = runs.done(arm, "test")
        cells = [arm, *(rows[0][name] for name in (*runs.tuned, *COSTS[:2]))]
        cells.append(f"{runs.estimate(arm, 'seconds').mean:.1f}")
        cells += [runs.estimate(arm, name).text(digits) for name in measures]
        for other in minus:
            difference = None if arm == other else runs.difference(arm, other, measures[-1])
            cells.append(difference.text(digits, sign=True) if difference else "-")
        table.append([*cells, str(len(rows))])
    heads = (*measures, *(f"minus {other}" for other in minus))
    print_table(["arm", *runs.tuned, *COSTS, *heads, "runs"], table)


def parameter_groups(model: nn.Module, rate: float, head_rate: float) -> list[dict[str, Any]]:
    """What is trained, the head with its own rate, or with the tried one where it is all."""
    trained = [(f".{name}", p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if ".head." in name]
    others = [p for name, p in trained if ".head." not in name]
    if not others:
        return [{"params": head, "lr": rate}]
    return [{"params": head, "lr": head_rate}, {"params": others, "lr": rate}]


def costs(model: nn.Module, optimizer: torch.optim.Optimizer, seconds: float) -> dict[str, Any]:
    """The columns COSTS: trained parameters without the head's, bytes of the optimizer's state."""
    trained = [(f".{name}", p) for name, p in model.named_parameters() if p.requires_grad]
    state = (value for of_one in optimizer.state.values() for value in of_one.values())
    return {
        "parameters": sum(p.numel() for name, p in trained if ".head." not in name),
        "optimizer bytes": sum(t.nbytes for t in state if isinstance(t, Tensor)),
        "seconds": round(seconds, 1),
    }
