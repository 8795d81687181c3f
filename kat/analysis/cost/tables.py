"""Costs as tables on the terminal, as CSV and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from kat.analysis.cost.layer_comparison import ComparedLayer
from kat.analysis.cost.model_cost import ModelCost, Published, Row
from kat.files import write_text
from kat.tables import print_table, write_table
from kat.text import dimensions, say, scaled


def comparison_row(layer: ComparedLayer) -> Row:
    """The numbers of a compared layer."""
    return {
        "layer": layer.name,
        "parameters_by_formula": layer.formula.parameters,
        "parameters": layer.cost.parameters,
        "flops_by_formula": layer.formula.flops,
        "flops": layer.cost.flops,
        "activation_bytes": layer.activation_bytes,
        "difference": layer.difference,
    }


def print_costs(models: Sequence[ModelCost], *, layers: bool = False) -> None:
    """Prints models, their operations by term, the authors' figures, layers, and remarks."""
    _print("for one image", map(_model_cells, models))
    _print(_TERMS, map(_term_cells, models))
    _print(_AUTHORS, (_published_cells(m, m.published) for m in models if m.published))
    for model in models if layers else ():
        _print(model.model, map(_cells, model.layer_rows()))
    for remark in (remark for model in models for remark in model.remarks()):
        say(remark)


def print_comparison(layers: Sequence[ComparedLayer]) -> None:
    """Prints compared layers."""
    _print("for one token", (_cells(comparison_row(layer)) for layer in layers))


_TERMS = (
    "by formula: FLOPs = 2 (weights + attention) + rational,"
    " the paper's count = weights + rational + norm"
)
_AUTHORS = "compared with the authors' figures (arXiv 2409.10594)"


def _model_cells(model: ModelCost) -> dict[str, str]:
    cost = model.cost
    return {
        "model": model.model,
        "input": dimensions(model.input_size),
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": scaled(cost.multiply_adds),
        "FLOPs counted": scaled(cost.flops),
        "by formula": scaled(cost.terms.flops),
        "kept for backward": scaled(model.memory.per_image, "B"),
    }


def _term_cells(model: ModelCost) -> dict[str, str]:
    terms = model.cost.terms
    return {
        "model": model.model,
        **{name: scaled(value) for name, value in asdict(terms).items()},
        "FLOPs": scaled(terms.flops),
        "the paper's count": scaled(terms.paper),
    }


def _published_cells(model: ModelCost, published: Published) -> dict[str, str]:
    ours = model.rounded()
    return {
        "model": model.model,
        "M parameters": ours.parameters,
        "authors' M parameters": published.parameters,
        "G by the paper's count": ours.gflops,
        "authors' GFLOPs": published.gflops,
        "equal": "yes" if model.agrees() else "NO",
    }


_HEADERS = {
    "layer": "layer",
    "kind": "kind",
    "input": "input",
    "output": "output",
    "parameters_by_formula": "parameters: formula",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "flops_by_formula": "FLOPs: formula",
    "flops": "counted",
    "paper_count": "paper's count",
    "activation_bytes": "bytes kept",
    "difference": "difference",
}


def _cells(row: Row) -> dict[str, str]:
    """A row for the terminal; the title names the model."""
    return {title: _cell(row[name]) for name, title in _HEADERS.items() if name in row}


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(title: str, rows: Iterable[dict[str, str]]) -> None:
    """Prints a title, a table and an empty line; nothing without rows."""
    listed = list(rows)
    if listed:
        say(title)
        print_table(list(listed[0]), [list(row.values()) for row in listed])
        say("")


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes rows with the same keys, which are the columns."""
    write_table(path, list(rows[0]), rows)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes rows as a list of objects."""
    write_text(path, json.dumps(rows, indent=2) + "\n")
