"""Speed of learning: the first epoch at which a run is as good as the reference in the end.

For the validation metric m(e) of a run after epoch e, and the best values b_1 .. b_n of the n runs
of the reference cell that are done, epochs_to_reference = min {e : m(e) >= mean(b)}.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kat.analysis.ablation import CURVE, Row
from kat.analysis.learning_curves import History


def with_epochs_to(rows: Sequence[Row], cell: str, metric: str) -> list[Row]:
    """Adds ``epochs_to_reference`` to the runs that are done; None if a run is never as good.

    Args:
        rows: the runs of a grid. If one that is done has no ``validation_curve``, as in tables of
            older versions, nothing is added.
        cell: the reference cell; without a run that is done, nothing is added.
        metric: the column of the validation metric.
    """
    done = [row for row in rows if row["status"] == "done"]
    best = [row[metric] for row in done if row["cell"] == cell and row.get(metric) is not None]
    if not best or not all(row.get(CURVE) for row in done):
        return list(rows)
    target = statistics.fmean(best)
    return [
        {**row, "epochs_to_reference": _first_epoch(row[CURVE], target)}
        if row["status"] == "done"
        else row
        for row in rows
    ]


def curve_of(history: History, metric: str) -> str:
    """A validation metric after each epoch, as a table of runs has it: ``71.2 78.9 nan 83.4``.

    An epoch that was not validated is ``nan``.
    """
    return " ".join(str(row.get(metric, math.nan)) for row in history)


def _first_epoch(curve: str, target: float) -> int | None:
    reached = (epoch for epoch, value in enumerate(curve.split(), 1) if float(value) >= target)
    return next(reached, None)
