"""What is wrong with a data set: one line a kind, with a count and the first example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kat.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, as often as it occurs.

    Args:
        kind: what is wrong, in the plural.
        count: how many there are.
        first: the first of them.
        skipping: what ``bad_annotations="skip"`` does about them; empty: there is no way around.
    """

    kind: str
    count: int
    first: str
    skipping: str = ""

    def __str__(self) -> str:
        return f"{self.count} {self.kind}, first {self.first}"

    def fatal(self, skip: bool) -> bool:
        """Whether training cannot, or is not to, go on."""
        return not (skip and self.skipping)


def found(kind: str, examples: Sequence[str], skipping: str = "") -> list[Problem]:
    """The problem that these are examples of; none where there are none."""
    return [Problem(kind, len(examples), examples[0], skipping)] if examples else []


def refuse(problems: Iterable[Problem], where: object, skip: bool) -> str:
    """Goes on only where nothing is wrong that is not to be skipped.

    Returns:
        What is skipped, in a sentence; empty where that is nothing.

    Raises:
        InputError: names the first fatal problem and says what can be done.
    """
    problems = list(problems)
    for problem in problems:
        if problem.fatal(skip):
            more = (
                "; data.bad_annotations=skip does without" if problem.skipping else ""
            ) + " ('kat data check' lists all problems)"
            raise InputError(f"{where}: {problem}{more}")
    skipped = "; ".join(f"{problem}: {problem.skipping}" for problem in problems)
    return f"{where}: {skipped}" if skipped else ""
