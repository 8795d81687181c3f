"""What the rows of a domain say, printed: errors, paired differences, ranks over the tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rows import Runs

from kat.analysis.ablation import Estimate
from kat.tables import print_table


def print_errors(
    runs: Runs, measure: str, arms: Iterable[str], references: Mapping[str, str]
) -> None:
    """The errors of the arms that have tests, and their differences from those of references."""
    heads = ("arm", "rate", "parameters", measure, "difference", "from", "seconds", "runs")
    rows = []
    for arm in runs.tested(arms):
        done = runs.done(arm, "test")
        reference = references.get(arm, "")
        difference = runs.difference(arm, reference, measure) if reference else None
        compared = (two_digits(difference, sign=True), reference) if difference else ("-", "-")
        error, seconds = (runs.estimate(arm, column) for column in (measure, "seconds"))
        own = (arm, done[0]["rate"], done[0]["parameters"], two_digits(error))
        rows.append((*own, *compared, f"{seconds.mean:.1f}", len(done)))
    print_table(heads, rows)


def two_digits(error: Estimate, sign: bool = False) -> str:
    """Two significant digits of the interval, and as many places of the mean."""
    width = error.half_width
    places = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 4
    return error.text(places, sign=sign)


def print_ranks(measure: str, means: Sequence[Mapping[str, float]]) -> None:
    """The rank of each arm among all, 1 the best, over tasks; ``means`` has the errors by arm.

    Arms with the same error share the mean of their ranks, as in Friedman's test; one that
    diverged is the last.
    """
    if len(means) < 2:
        return
    rows = []
    for arm in means[0]:
        ranks = [rank(arm, each) for each in means]
        rows.append((arm, Estimate.of(ranks).text(2)))
    print(f"\nmean rank by {measure} error over {len(means)} tasks, and 95 % interval over them")
    print_table(("arm", "rank"), rows)


def rank(arm: str, errors: Mapping[str, float]) -> float:
    """1 + how many errors are lower + half of how many others are equal."""
    known = {name: math.inf if math.isnan(error) else error for name, error in errors.items()}
    lower = sum(other < known[arm] for other in known.values())
    return 1 + lower + (sum(other == known[arm] for other in known.values()) - 1) / 2
