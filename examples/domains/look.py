"""To look at a domain in a notebook: one short run, the functions it learned, the plan's results.

The notebooks of docs/tutorials, domain-NAME.py, use it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from extra import needed
from torch import nn

with needed():
    from comparisons import lines
    from figures import forest
    from matplotlib import pyplot
    from matplotlib.figure import Figure
    from plan import RESULTS
    from report import table
    from runner import Trial

    from kat.analysis import learned_activations

COLUMNS = 6


def once(
    run: Callable[[Trial], Any], task: str, arm: str, rate: float, steps: int
) -> tuple[nn.Module, dict[str, Any]]:
    """One run on the CPU with seed 1, of which no file stays: the model, and what it measured.

    Args:
        run: of a domain, which prints; that is not shown.
        task, arm, rate, steps: of the :class:`runner.Trial`.
    """
    torch.manual_seed(1)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "run.ckpt"
        return run(Trial(task, arm, rate, 1, steps, torch.device("cpu"), path))


def functions(model: nn.Module, width: float = 3.0) -> Figure:
    """A panel for each rational of a model, a line for each group; dashed is where they began."""
    learned = learned_activations(model, width=width)
    rows = -(-len(learned) // COLUMNS)
    columns = -(-len(learned) // rows)
    size = (min(12, 3 * columns), 2.2 * rows)
    figure, axes = pyplot.subplots(rows, columns, squeeze=False, figsize=size, layout="constrained")
    for axis in axes.flat[len(learned) :]:
        axis.axis("off")
    for axis, act in zip(axes.flat, learned, strict=False):
        axis.plot(act.x, act.learned.T, lw=1)
        axis.plot(act.x, act.start[0], "k--", lw=1)
        axis.set_title(".".join(act.name.split(".")[-6:]), fontsize=8)
    return figure


def results(name: str) -> str:
    """The differences of the plan's runs of a domain as a Markdown table; it draws their forest."""
    made = list(lines(name, RESULTS))
    forest(made)
    return table(made)
