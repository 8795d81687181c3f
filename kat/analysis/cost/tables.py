"""Costs as tables on the terminal, as CSV and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kat.analysis.cost.activation_memory import ActivationMemory
from kat.analysis.cost.flops import Cost, LayerCost
from kat.analysis.cost.layer_comparison import ComparedLayer
from kat.files import write_text
from kat.tables import print_table, write_table
from kat.text import scaled

Row = dict[str, object]


@dataclass(frozen=True)
class Published:
    """The authors' figures for a model, as they print them.

    Args:
        parameters: in millions.
        gflops: what they call so; :attr:`kat.analysis.cost.formulas.Terms.paper` in units of 10^9.
    """

    parameters: str
    gflops: str


PUBLISHED = {
    "vit_tiny_patch16_224": Published("5.7", "1.08"),
    "vit_small_patch16_224": Published("22.1", "4.25"),
    "vit_base_patch16_224": Published("86.6", "16.87"),
    "kat_tiny_patch16_224": Published("5.7", "1.13"),
    "kat_small_patch16_224": Published("22.1", "4.35"),
    "kat_base_patch16_224": Published("86.6", "17.06"),
}
"""The paper's table of models. Source: arXiv 2409.10594."""


@dataclass(frozen=True)
class ModelCost:
    """What a model costs.

    Args:
        model: its name.
        input_size: (C, H, W).
        cost: parameters and operations.
        memory: for activations.
        published: the authors' figures, where they have some for this very model.
    """

    model: str
    input_size: tuple[int, ...]
    cost: Cost
    memory: ActivationMemory
    published: Published | None = None

    def rounded(self) -> Published:
        """Parameters and the paper's count to the digits that the authors print."""
        return Published(f"{self.cost.parameters / 1e6:.1f}", f"{self.cost.terms.paper / 1e9:.2f}")

    def agrees(self) -> bool | None:
        """Whether they are the authors' digits; None where there are none."""
        return None if self.published is None else self.rounded() == self.published

    def row(self) -> Row:
        """Everything but the layers."""
        cost, published = self.cost, self.published
        return {
            "model": self.model,
            "input": _shape(self.input_size),
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "flops": cost.flops,
            "flops_by_formula": cost.terms.flops,
            **asdict(cost.terms),
            "paper_count": cost.terms.paper,
            "authors_parameters_m": published and published.parameters,
            "authors_gflops": published and published.gflops,
            "agrees_with_authors": self.agrees(),
            "activation_bytes": self.memory.per_image,
            "activation_bytes_of_any_batch": self.memory.fixed,
        }

    def layer_rows(self) -> list[Row]:
        """The layers that have, do or keep anything."""
        rows = (self._layer_row(layer) for layer in self.cost.layers)
        return [row for row in rows if any(row[name] for name in _NUMBERS)]

    def _layer_row(self, layer: LayerCost) -> Row:
        return {
            "model": self.model,
            "layer": layer.name or "(model)",
            "kind": layer.kind,
            "input": layer.input_shape and _shape(layer.input_shape),
            "output": layer.output_shape and _shape(layer.output_shape),
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds,
            "flops": layer.flops,
            "flops_by_formula": layer.terms.flops,
            "paper_count": layer.terms.paper,
            "activation_bytes": self.memory.layers.get(layer.name, 0),
        }

    def to_dict(self) -> Row:
        """Everything, for JSON."""
        unexplained = self.cost.unexplained()
        return {**self.row(), "unexplained_flops": unexplained, "layers": self.layer_rows()}

    def remarks(self) -> list[str]:
        """What the tables do not say, a sentence each."""
        found = [
            f"{self.model}: {scaled(flops)} FLOPs counted in {kind} are in no formula"
            for kind, flops in self.cost.unexplained().items()
        ]
        if self.memory.fixed:
            found.append(
                f"{self.model}: keeps {self.memory.fixed:,} bytes besides, whatever the batch"
            )
        return found


_NUMBERS = ("parameters", "multiply_adds", "flops", "paper_count", "activation_bytes")


def comparison_row(layer: ComparedLayer) -> Row:
    """A compared layer's numbers."""
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
    """The models, their operations by term, the authors' figures, the layers, remarks."""
    _print("of one image", map(_model_cells, models))
    _print(_TERMS, map(_term_cells, models))
    _print(_AUTHORS, (_published_cells(m, m.published) for m in models if m.published))
    for model in models if layers else ():
        _print(model.model, map(_cells, model.layer_rows()))
    for remark in (remark for model in models for remark in model.remarks()):
        sys.stdout.write(f"{remark}\n")


def print_comparison(layers: Sequence[ComparedLayer]) -> None:
    """The compared layers."""
    _print("of one token", (_cells(comparison_row(layer)) for layer in layers))


_TERMS = (
    "by formula: FLOPs = 2 (weights + attention) + rational,"
    " the paper's count = weights + rational + norm"
)
_AUTHORS = "beside the authors' figures (arXiv 2409.10594)"


def _model_cells(model: ModelCost) -> dict[str, str]:
    cost = model.cost
    return {
        "model": model.model,
        "input": _shape(model.input_size),
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
    """A row as the terminal shows it, which knows the model from the title."""
    return {title: _cell(row[name]) for name, title in _HEADERS.items() if name in row}


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(title: str, rows: Iterable[dict[str, str]]) -> None:
    """A titled table and an empty line; nothing where there are no rows."""
    listed = list(rows)
    if listed:
        sys.stdout.write(f"{title}\n")
        print_table(list(listed[0]), [list(row.values()) for row in listed])
        sys.stdout.write("\n")


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes rows, whose keys are the columns."""
    write_table(path, list(rows[0]), rows)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes rows as a list of objects."""
    write_text(path, json.dumps(rows, indent=2) + "\n")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
