"""Settings that may be left to the program: ``auto`` in a recipe or on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, Union

AUTO = "auto"

T = TypeVar("T")

# A run's settings hold no auto any more when they are used (kat.training.auto_settings): to mypy
# they are what they then are, and the parser of the command line lets the word through.
if TYPE_CHECKING:
    OrAuto = Annotated[T, AUTO]
else:
    OrAuto = Union[T, Literal["auto"]]  # noqa: UP007  (a generic alias)
