"""Problems in the data: one line per kind, with the number of cases and the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kat.errors import InputError


@dataclass(frozen=True)
class Problem:
    """A kind of problem, and how often it occurs.

    Args:
        kind: name of the kind, in the plural.
        count: number of cases.
        first: the first case.
        remedy: what ``bad_annotations="skip"`` does about the cases; empty if it cannot help.
    """

    kind: str
    count: int
    first: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.count} {self.kind}, first {self.first}"

    def fatal(self, skip: bool) -> bool:
        """Whether the problem prevents training, with ``bad_annotations="skip"`` or without."""
        return not (skip and self.remedy)


def problems_of(kind: str, cases: Sequence[str], remedy: str = "") -> list[Problem]:
    """The problem with these cases, as a list that is empty if there are none."""
    return [Problem(kind, len(cases), cases[0], remedy)] if cases else []


def check_problems(problems: Iterable[Problem], where: object, skip: bool) -> str:
    """Checks that no problem is fatal.

    Args:
        problems: all problems of a file or folder.
        where: the file or folder.
        skip: whether ``bad_annotations`` is ``"skip"``.

    Returns:
        A sentence about the cases that are skipped; empty if there are none.

    Raises:
        InputError: names the first fatal problem and what to do about it.
    """
    problems = list(problems)
    for problem in problems:
        if problem.fatal(skip):
            hint = "; data.bad_annotations=skip leaves them out" if problem.remedy else ""
            raise InputError(f"{where}: {problem}{hint} ('kat data check' lists all problems)")
    skipped = "; ".join(f"{problem}: {problem.remedy}" for problem in problems)
    return f"{where}: {skipped}" if skipped else ""
