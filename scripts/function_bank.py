"""Fits the functions that the package ships for `kat.transfer_functions("language", model)`.

python scripts/function_bank.py kat/models/functions.json

The sources are the six GR-KAN models of benchmarks/results/domains/step.csv that learned for 400
steps and whose functions were tested in other models. The second function of each block is averaged
over the groups and the models: once in the first block, once over all others. Each mean curve is
fitted by least squares, weighted by how often the inputs of the sources lie at x.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kat.files import write_text
from kat.nn import group_functions
from kat.nn.fitting import Points, fit

ROWS = Path(__file__).parents[1] / "benchmarks" / "results" / "domains" / "step.csv"
EDGES = np.linspace(-8, 8, 401)
"""The bins of the densities in the rows."""
SEEDS = range(161, 167)
OUTSIDE = 1e-4
"""The share of the inputs that lies below, and above, the range of inputs that the file names."""


def learned(seed: int) -> list[dict[str, Any]]:
    """The second function of each block of a source, with the density of its inputs."""
    csv.field_size_limit(1 << 20)
    with ROWS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["seed"]) == seed]
    own = [row for row in rows if (row["arm"], row["task"]) == ("donor", "python3-doc")]
    [functions] = [row["functions"] for row in own]
    return [block["act2"] for block in json.loads(functions)]


def mean_function(functions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The fit to the mean curve of functions, as the file holds it."""
    x = (EDGES[1:] + EDGES[:-1]) / 2
    curves, densities = [], []
    for own in functions:
        a, b = torch.tensor(own["numerator"]), torch.tensor(own["denominator"])
        curves.append(group_functions(torch.from_numpy(x), a, b, own["form"]).mean(0).numpy())
        densities.append(own["density"])
    curve, density = np.mean(curves, 0), np.mean(densities, 0)
    seen = density > 0
    points = Points("mean", x[seen], curve[seen], density[seen])
    found = fit(points, (5, 4), "A", method="least_squares")
    below = np.cumsum(density) / density.sum()
    low, high = np.interp((OUTSIDE, 1 - OUTSIDE), below, EDGES[1:])
    return {
        "form": "A",
        "numerator": [float(f"{value:.6g}") for value in found.numerator],
        "denominator": [float(f"{value:.6g}") for value in found.denominator],
        "interval": [round(low, 1), round(high, 1)],
    }


def bank() -> dict[str, Any]:
    """The content of the file."""
    sources = [learned(seed) for seed in SEEDS]
    return {
        "language": {
            "sources": "six GR-KAN language models of 3.0 M parameters, 0.8 M tokens each",
            "text": "the documentation of Python 3.13",
            "figures": "docs/results/activations.md",
            "first": mean_function(blocks[0] for blocks in sources),
            "others": mean_function(act for blocks in sources for act in blocks[1:]),
        }
    }


def main() -> None:
    """Fits and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="FILE")
    write_text(parser.parse_args().out, json.dumps(bank(), indent=2) + "\n")


if __name__ == "__main__":
    main()
