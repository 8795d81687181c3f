"""Speed of learning: the first epoch at which a run is as good as the reference in the end.

For the validation metric m(e) of a run after epoch e, and the best values b_1 .. b_n of the n runs
of the reference cell that are done, epochs_to_reference = min {e : m(e) >= mean(b)}.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from kat.analysis.ablation import Row
from kat.analysis.learning_curves import History


def with_epochs_to(
    rows: Sequence[Row], cell: str, metric: str, history: Callable[[Row], History]
) -> list[Row]:
    """Adds ``epochs_to_reference`` to the runs that are done; None if a run is never as good.

    Args:
        rows: the runs of a grid.
        cell: the reference cell; without a run that is done, nothing is added.
        metric: the column of the validation metric, in the rows and in the histories.
        history: the history of the run of a row.
    """
    done = [row for row in rows if row["status"] == "done"]
    best = [row[metric] for row in done if row["cell"] == cell and row.get(metric) is not None]
    if not best:
        return list(rows)
    target = statistics.fmean(best)
    return [
        {**row, "epochs_to_reference": _first_epoch(history(row), metric, target)}
        if row["status"] == "done"
        else row
        for row in rows
    ]


def _first_epoch(history: History, metric: str, target: float) -> int | None:
    reached = (int(row["epoch"]) for row in history if row.get(metric, float("-inf")) >= target)
    return next(reached, None)
