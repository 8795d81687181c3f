"""What the rows of the plan say: errors by arm, and paired differences of arms.

A difference is the ratio of the errors of an arm and another less one, in percent: -10 % is an
error lower by a tenth. It is the geometric mean over the seeds that both have, with the 95 %
interval that the t distribution gives their logarithms, not corrected for their number; its
p-value is that of Student's test of the same logarithms. Where one of the two makes no error at all
with a seed, there is no ratio.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from plan import PLAN
from rows import Runs
from runner import Domain
from scipy.stats import ttest_1samp

from kat.analysis.ablation import Estimate

COMPARISONS = {
    "GR-KAN - GELU": ("grkan", "gelu"),
    "GR-KAN - SwiGLU": ("grkan", "swiglu"),
    "gated GR-KAN - SwiGLU": ("gated_grkan", "swiglu"),
    "smooth GR-KAN - GELU": ("smooth", "gelu"),
    "GR-KAN - frozen": ("grkan", "frozen"),
    "frozen - GELU": ("frozen", "gelu"),
    "SwiGLU - GELU": ("swiglu", "gelu"),
    "SiLU - GELU": ("silu", "gelu"),
    "tanh - GELU": ("tanh", "gelu"),
    "GR-KAN - boosting": ("grkan", "boosting"),
    "GR-KAN - MiniRocket": ("grkan", "rocket"),
}
"""By the title of a difference, its arm and the other."""


class Difference(NamedTuple):
    """The ratio of the errors of two arms less one, in percent: its interval and its p-value."""

    title: str
    mean: float
    low: float
    high: float
    p: float

    @property
    def side(self) -> int:
        """-1 or 1 if the interval lies below or above zero, else 0."""
        return (self.low > 0) - (self.high < 0)


class Line(NamedTuple):
    """A task with a body and a measure: mean errors by arm, and its differences."""

    domain: str
    task: str
    errors: dict[str, Estimate]
    differences: list[Difference]


def lines(name: str, results: Path) -> Iterator[Line]:
    """What the rows of a domain say, a line for each task, body and measure that has tests."""
    domain, of_tasks = _declared(name, results)
    bodies = dict.fromkeys(arm.rpartition("/")[0] for arm in domain.references)
    for task, runs in of_tasks.items():
        for body in bodies:
            arms = _arms(runs, domain, body)
            for measure in domain.measures if arms else ():
                of_test = "" if measure == "test" else measure
                title = ", ".join(filter(None, (task, body, of_test)))
                errors = {layer: runs.estimate(arm, measure) for layer, arm in arms.items()}
                yield Line(name, title, errors, list(_differences(runs, arms, measure)))


def kept_rates(name: str, results: Path) -> Iterator[int]:
    """For each task and tested network of a domain, the place of its rate, 0 the lowest."""
    domain, of_tasks = _declared(name, results)
    networks = dict.fromkeys(arm for pair in domain.references.items() for arm in pair)
    for runs in of_tasks.values():
        for arm in runs.tested(networks):
            yield sorted(domain.rates[arm]).index(runs.best_rates(arm)["rate"])


def _declared(name: str, results: Path) -> tuple[Domain, dict[str, Runs]]:
    """A domain, and its runs that the plan declares, by task."""
    domain: Domain = importlib.import_module(name).DOMAIN
    path, declared = results / f"{name}.csv", PLAN[name]
    return domain, {task: domain.runs(path, task, declared["steps"]) for task in declared["tasks"]}


def _arms(runs: Runs, domain: Domain, body: str) -> dict[str, str]:
    """By the name of its layers, each arm of a body that has tests, and those of no body."""
    parts = {arm: arm.rpartition("/") for arm in runs.tested(domain.rates)}
    return {layer: arm for arm, (own, _, layer) in parts.items() if own in ("", body)}


def difference(title: str, pairs: list[tuple[float, float]]) -> Difference | None:
    """The difference of an arm and another from their errors, a pair for each seed.

    None where there is no ratio, or a single one.
    """
    ratios = _log_ratios(pairs)
    if len(ratios) < 2:
        return None
    test = ttest_1samp(ratios, 0)
    ends = statistics.fmean(ratios), *test.confidence_interval()
    p = test.pvalue if any(ratios) else 1.0  # equal errors leave 0 / 0
    return Difference(title, *(100 * math.expm1(end) for end in ends), p)


def _differences(runs: Runs, arms: dict[str, str], measure: str) -> Iterator[Difference]:
    for title, (arm, other) in COMPARISONS.items():
        if arm in arms and other in arms:
            found = difference(title, runs.pairs(arms[arm], arms[other], measure))
            if found:
                yield found


def _log_ratios(pairs: list[tuple[float, float]]) -> list[float]:
    """The logarithm of the ratio of errors for each seed; none if one has no ratio."""
    if not all(0 < error < math.inf for pair in pairs for error in pair):
        return []
    return [math.log(error / of) for error, of in pairs]
