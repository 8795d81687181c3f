"""The coefficients of a model's rationals during training, and the CSV file that holds them.

The file has a line for each row of coefficients at each recorded step:

    step,layer,form,part,group,c0,c1,c2,c3,c4,c5
    0,blocks.0.mlp.act1,A,numerator,0,0.0,1.0,0.0,0.0,0.0,0.0        c_i = a_i
    0,blocks.0.mlp.act1,A,denominator,0,0.0,0.0,0.0,0.0,,            c_i = b_(i + 1)

``step`` is the number of optimizer steps taken before. A part that all groups share has only group
0. Numbers are float32, in the fewest digits that restore them; cells beyond a degree are empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kat.nn.rational import group_functions
from kat.tables import open_table, write_table

_KEYS = ("step", "layer", "form", "part", "group")
_PARTS = ("numerator", "denominator")


@dataclass(frozen=True)
class LayerHistory:
    """The coefficients of one rational layer at S training steps.

    Args:
        form: the form of its denominators, ``"A"`` or ``"B"``.
        steps: (S,) int64, ascending.
        numerator: (S, 1 or G, m + 1), float32.
        denominator: (S, 1 or G, n), float32.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.nn import read_coefficient_history
        >>> history = read_coefficient_history(Path("runs/digits/coefficients.csv"))
        >>> layer = history["blocks.0.mlp.act2"]
        >>> layer.functions(torch.linspace(-3, 3, 100)).shape  # steps, groups, points
        torch.Size([7, 8, 100])
    """

    form: str
    steps: Tensor
    numerator: Tensor
    denominator: Tensor

    def functions(self, x: Tensor) -> Tensor:
        """Return F of each group at each step, at the points x (k,): (S, G, k), float64."""
        pairs = zip(self.numerator, self.denominator, strict=True)
        return torch.stack([group_functions(x, a, b, self.form) for a, b in pairs])

    def followed_by(self, later: LayerHistory) -> LayerHistory:
        """Return the history, followed by a later one of the same layer."""
        names = ("steps", "numerator", "denominator")
        joined = {n: torch.cat([getattr(self, n), getattr(later, n)]) for n in names}
        return LayerHistory(self.form, **joined)


History = Mapping[str, LayerHistory]
"""Histories of layers by name, in the order of the model."""


def write_coefficient_history(history: History, path: str | Path) -> None:
    """Write the coefficients of all layers, step by step. The file appears whole or not at all.

    Examples:
        >>> from pathlib import Path
        >>> from kat.nn import read_coefficient_history, write_coefficient_history
        >>> history = read_coefficient_history(Path("runs/digits/coefficients.csv"))
        >>> first = {name: layer for name, layer in history.items() if "act1" in name}
        >>> write_coefficient_history(first, Path("act1.csv"))
    """
    rows: list[dict[str, Any]] = []
    for name, layer in history.items():
        rows.extend(_rows(name, layer))
    rows.sort(key=lambda row: row["step"])  # stable: within a step, layers keep their order
    write_table(path, list(max(rows, key=len, default=_KEYS)), rows)


def _rows(name: str, layer: LayerHistory) -> Iterator[dict[str, Any]]:
    for index, step in enumerate(layer.steps.tolist()):
        for part in _PARTS:
            for group, values in enumerate(getattr(layer, part)[index].tolist()):
                keys = dict(zip(_KEYS, (step, name, layer.form, part, group), strict=True))
                # nine digits restore a float32
                yield keys | {f"c{index}": f"{value:.9g}" for index, value in enumerate(values)}


def read_coefficient_history(path: str | Path) -> dict[str, LayerHistory]:
    """Read a file of :func:`write_coefficient_history`.

    Raises:
        InputError: the file is missing, or something else.

    Examples:
        >>> from pathlib import Path
        >>> from kat.nn import read_coefficient_history
        >>> list(read_coefficient_history(Path("runs/digits/coefficients.csv")))
        ['blocks.0.mlp.act1', 'blocks.0.mlp.act2']
    """
    with open_table(path, "a coefficient history", "only training a KAT writes it") as lines:
        by_layer: dict[str, list[dict[str, str]]] = {}
        for line in lines:
            by_layer.setdefault(line["layer"], []).append(line)
        return {name: _layer(own) for name, own in by_layer.items()}


def _layer(lines: Sequence[Mapping[str, str]]) -> LayerHistory:
    steps = list(dict.fromkeys(int(line["step"]) for line in lines))
    parts = {}
    for part in _PARTS:
        rows = [_coefficients(line) for line in lines if line["part"] == part]
        if not rows or len(rows) % len(steps):
            raise ValueError(f"rows of {lines[0]['layer']} are missing")
        shape = len(steps), len(rows) // len(steps), len(rows[0])
        parts[part] = torch.tensor(rows).view(shape)
    return LayerHistory(lines[0]["form"], torch.tensor(steps), **parts)


def _coefficients(line: Mapping[str, str]) -> list[float]:
    return [float(value) for name, value in line.items() if name not in _KEYS and value]
