"""Small pages of every kind, and what the charts in them hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from kat.analysis import count, learned_activations
from kat.analysis.reports.findings import RunFindings
from kat.analysis.runs import Row
from kat.nn import LayerHistory, rationals
from kat.nn.stability import QUANTITIES
from tests.records import RECORD

STEPS = [0, 5, 10]
TOP1 = {"KAT": [84.0, 85.5, 84.6], "ViT (a long name)": [81.0, 82.9, 81.5]}


def small_kat() -> nn.Module:
    """A KAT of one block whose groups differ."""
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=1, num_classes=10).eval()
    with torch.no_grad():
        for layer in rationals(model).values():
            layer.weight_numerator += 0.1 * torch.randn_like(layer.weight_numerator)
            layer.weight_denominator += 0.2 * torch.rand_like(layer.weight_denominator)
    return model


def coefficient_history(model: nn.Module) -> dict[str, LayerHistory]:
    """The rationals of a model, whose coefficients were half at step 5 and nothing at step 0."""
    shares = torch.tensor([0.0, 0.5, 1.0]).view(-1, 1, 1)
    found = {}
    for name, layer in rationals(model).items():
        a, b = (shares * p.detach() for p in (layer.weight_numerator, layer.weight_denominator))
        found[name] = LayerHistory(layer.form, torch.tensor(STEPS), a, b)
    return found


def history(top1: float) -> list[dict[str, float]]:
    """Two epochs, the second of this top-1."""
    first = {"epoch": 1, "train_loss": 2.0, "val_loss": 1.5, "top1": top1 - 10, "top5": 90.0,
             "best": 0}  # fmt: skip
    second = {"epoch": 2, "train_loss": 1.0, "val_loss": 0.5, "top1": top1, "top5": 99.0, "best": 1}
    return [first, second]


def stability_rows(layers: list[str]) -> list[Row]:
    """Gains of 1/2, 1, 2 at the three steps in the first layer, and so on by quarters."""
    return [
        dict.fromkeys(QUANTITIES, 0.0)
        | {"step": step, "layer": layer, "q_min": 1.0, "q_max": 3.0}
        | {"gain": 2.0 ** (at - 1) / (1 + place)}
        for at, step in enumerate(STEPS)
        for place, layer in enumerate(layers)
    ]


def findings(model: nn.Module, **changes: Any) -> RunFindings:
    """All that could be known of a run."""
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = coefficient_history(model)
    known = {
        "name": "runs/small",
        "record": RECORD,
        "cost": count(model, RECORD.input_size),
        "data": "digits",
        "settings": {"epochs": 2, "optim": {"lr": 0.002}},
        "summary": {
            "top1": 84.25, "top5": 99.0, "epochs": 2, "best_epoch": 2, "validation_images": 400,
            "seconds": 3723.0, "images_per_second": 1234.5,
            "memory_bytes": 735_600_000,
        },
        "history": history(84.25),
        "activations": learned_activations(model, [images]),
        "seen": "Grey is what 8 images bring.",
        "coefficients": layers,
        "stability": stability_rows(list(layers)),
    }  # fmt: skip
    return RunFindings(**{**known, **changes})


def grid_rows(top1: dict[str, list[float]] = TOP1) -> list[Row]:
    """Three seeds of two cells, or the top-1 of each seed by the cells' names."""
    return [
        {
            "cell": cell, "seed": seed, "status": "done", "top1": value, "top5": 99.0,
            "parameters": 1000 * (1 + len(cell)), "flops": 2_000_000, "seconds": 60.0 + seed,
            "images_per_second": 900.5, "memory_bytes": 10**9, "epochs": 2, "best_epoch": 2,
            "run": f"runs/{cell}-{seed}",
        }
        for cell, values in top1.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip


def rows_with_test() -> list[Row]:
    """Runs whose test is 10 points below their validation, in the other order of the cells."""
    top1 = {"KAT": [82.0, 84.0], "ViT": [83.0, 84.5]}
    tested = {"KAT": [73.0, 75.0], "ViT": [72.0, 74.5]}
    return [
        {
            **row,
            "test_top1": tested[row["cell"]][row["seed"]],
            "test_last_top1": tested[row["cell"]][row["seed"]] - 0.5,
            "test_ece": 0.02 + 0.01 * row["seed"],
        }
        for row in grid_rows(top1)
    ]


def texts_of(page: Path, pattern: str = "<text .*?>(.*?)</text>") -> list[list[str]]:
    """The texts in each figure of a page."""
    figures = re.findall(r"<svg.*?</svg>", page.read_text(), re.DOTALL)
    return [re.findall(pattern, figure) for figure in figures]


def titles_of(page: Path) -> list[list[str]]:
    """The titles to hover in each figure of a page."""
    return texts_of(page, "<title>(.*?)</title>")


def tables_of(page: Path) -> list[list[list[str]]]:
    """The texts of the cells of each table of a page."""
    tables = re.findall(r"<table>(.*?)</table>", page.read_text(), re.DOTALL)
    rows = [re.findall(r"<tr.*?>(.*?)</tr>", table, re.DOTALL) for table in tables]
    return [[re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in table] for table in rows]
