"""Figures: learning curves, and the activations that a model has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import nn

from kat.files import replacing
from kat.nn import GroupRational

History = Sequence[Mapping[str, float]]


def plot_learning_curves(histories: Mapping[str, History], path: Path) -> None:
    """Draws loss and top-1 against epochs, one colour a run.

    Args:
        histories: label of each run to its rows (:func:`kat.training.read_history`).
        path: where to write; the suffix chooses the format (png, svg, pdf).
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (label, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        style: dict[str, Any] = {"color": f"C{number}"}
        left.plot(epochs, [row["train_loss"] for row in rows], ":", **style)
        left.plot(epochs, [row["val_loss"] for row in rows], "-", label=label, **style)
        right.plot(epochs, [row["top1"] for row in rows], "-", label=label, **style)
    left.set(xlabel="epoch", ylabel="cross entropy", title="loss (dotted: training)")
    right.set(xlabel="epoch", ylabel="top-1 (%)", title="validation accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


@torch.no_grad()
def plot_activations(model: nn.Module, path: Path, *, width: float = 4.0) -> None:
    """Draws every learned rational, one panel a layer, one line a group, its start dashed.

    Args:
        model: holds :class:`GroupRational` layers.
        path: where to write; the suffix chooses the format.
        width: the panels show x from -width to width.

    Raises:
        ValueError: the model has no rational.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, GroupRational)}
    if not layers:
        raise ValueError("the model has no GroupRational layer to draw")
    columns = min(4, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    x = torch.linspace(-width, width, 401, dtype=torch.float64)
    for axes, (name, layer) in zip(panels, layers.items(), strict=False):
        for group, y in enumerate(layer.functions(x).cpu()):
            axes.plot(x, y, lw=1, color=mpl.colormaps["viridis"](group / layer.num_groups))
        axes.plot(x, layer.initial_functions(x)[0], "--", lw=1, color="black")
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(layers) :]:
        axes.set_axis_off()
    figure.suptitle("learned activations by group (dashed: where they started)")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
