"""Problems in the data: one line per kind, with the number of cases and the first of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kat.errors import InputError

Setting = Literal["bad_images", "bad_annotations"]
_SHOWN = 300
"""The most characters of a case that are printed."""


@dataclass(frozen=True)
class Problem:
    """A kind of problem, and its cases.

    Args:
        kind: name of the kind, in the plural.
        cases: all of them, at least one.
        remedy: what training does about the cases; empty if they stop it whatever the settings.
        setting: the setting of the data that must be ``"skip"`` for that; None: training always
            does it.
    """

    kind: str
    cases: Sequence[str]
    remedy: str = ""
    setting: Setting | None = None

    @property
    def count(self) -> int:
        """The number of cases."""
        return len(self.cases)

    @property
    def first(self) -> str:
        """The first case."""
        return self.cases[0]

    def __str__(self) -> str:
        first = self.first if len(self.first) <= _SHOWN else f"{self.first[:_SHOWN]} ..."
        return f"{self.count} {self.kind}, first {first}"

    def fatal(self, skipped: Collection[str]) -> bool:
        """Whether the problem stops training.

        Args:
            skipped: the settings that are ``"skip"``.
        """
        return not self.remedy or (self.setting is not None and self.setting not in skipped)

    def severity(self, skipped: Collection[str]) -> str:
        """``"fatal"``, ``"skipped"`` for what training leaves out, or ``"warning"``."""
        if self.fatal(skipped):
            return "fatal"
        return "skipped" if self.setting else "warning"


def problems_of(
    kind: str,
    cases: Sequence[str],
    remedy: str = "",
    setting: Setting | None = "bad_annotations",
) -> list[Problem]:
    """The problem with these cases, as a list that is empty if there are none."""
    return [Problem(kind, cases, remedy, setting)] if cases else []


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
        if problem.fatal({"bad_annotations"} if skip else ()):
            hint = f"; data.{problem.setting}=skip leaves them out" if problem.remedy else ""
            raise InputError(f"{where}: {problem}{hint} ('kat data check' lists all problems)")
    skipped = "; ".join(f"{problem}: {problem.remedy}" for problem in problems)
    return f"{where}: {skipped}" if skipped else ""
