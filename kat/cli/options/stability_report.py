"""The report on a monitored run, which ``kat train`` and ``kat stability`` print."""

from __future__ import annotations

from pathlib import Path

import kat
from kat.tables import print_table
from kat.text import say_all


def print_stability(out: Path) -> None:
    """Print the verdict on a monitored run, and the table of its layers."""
    from kat.analysis.inspect.stability import TABLE, table
    from kat.nn.stability import read_rows
    from kat.training.record.run_directory import STABILITY

    rows = read_rows(out / STABILITY)
    say_all(kat.analysis.Verdict.of(rows, kat.training.read_divergence(out)).lines)
    print_table(TABLE, table(rows)[0])
