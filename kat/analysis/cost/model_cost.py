"""The cost of a model, and the figures that the authors give for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kat.analysis.cost.activation_memory import ActivationMemory, activation_memory
from kat.analysis.cost.detection import countable
from kat.analysis.cost.flops import Cost, LayerCost, count
from kat.errors import InputError
from kat.models import create_model, input_args, load_model, registered_preprocessing
from kat.models.checkpoints.model_record import unseen_pixels
from kat.text import dimensions, scaled, warn

Row = dict[str, object]


@dataclass(frozen=True)
class Published:
    """The authors' figures for a model, as printed.

    Args:
        parameters: in millions.
        gflops: as they call it: :attr:`kat.analysis.cost.formulas.Terms.paper` in units of 10^9.
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
"""The table of models in the paper. Source: arXiv 2409.10594."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model.

    Args:
        model: its name.
        input_size: (C, H, W).
        cost: parameters and operations.
        memory: for activations.
        published: the authors' figures, if they give any for exactly this model.
    """

    model: str
    input_size: tuple[int, ...]
    cost: Cost
    memory: ActivationMemory
    published: Published | None = None

    def rounded(self) -> Published:
        """Parameters and the paper's count, to as many digits as the authors print."""
        return Published(f"{self.cost.parameters / 1e6:.1f}", f"{self.cost.terms.paper / 1e9:.2f}")

    def agrees(self) -> bool | None:
        """Whether these are the digits that the authors print; None without figures of theirs."""
        return None if self.published is None else self.rounded() == self.published

    def row(self) -> Row:
        """All values but those of layers."""
        cost, published = self.cost, self.published
        return {
            "model": self.model,
            "input": dimensions(self.input_size),
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
        """One row for each layer with a cost."""
        rows = (self._layer_row(layer) for layer in self.cost.layers)
        return [row for row in rows if any(row[name] for name in _NUMBERS)]

    def _layer_row(self, layer: LayerCost) -> Row:
        return {
            "model": self.model,
            "layer": layer.name or "(model)",
            "kind": layer.kind,
            "input": layer.input_shape and dimensions(layer.input_shape),
            "output": layer.output_shape and dimensions(layer.output_shape),
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds,
            "flops": layer.flops,
            "flops_by_formula": layer.terms.flops,
            "paper_count": layer.terms.paper,
            "activation_bytes": self.memory.layers.get(layer.name, 0),
        }

    def to_dict(self) -> Row:
        """All values, for JSON."""
        unexplained = self.cost.unexplained()
        return {**self.row(), "unexplained_flops": unexplained, "layers": self.layer_rows()}

    def remarks(self) -> list[str]:
        """Sentences about what the tables do not show."""
        found = [
            f"{self.model}: {scaled(flops)} FLOPs counted in {kind} are in no formula"
            for kind, flops in self.cost.unexplained().items()
        ]
        if self.memory.fixed:
            found.append(
                f"{self.model}: keeps another {self.memory.fixed:,} bytes per batch of any size"
            )
        return found


_NUMBERS = ("parameters", "multiply_adds", "flops", "paper_count", "activation_bytes")


def model_cost(name: str, args: dict[str, Any], image_size: int | None) -> ModelCost:
    """Counts the cost of a model.

    Args:
        name: a name in timm's registry, or a path that :func:`kat.models.load_model` takes.
        args: further arguments of the constructor.
        image_size: side of the images; None: the model's own.

    Raises:
        InputError: there is no such model, or it refuses the arguments.
    """
    stored = Path(name).exists()
    if stored and (args or image_size):
        raise InputError(f"--args and --image-size are for names: {name} is stored with its own")
    model, input_size = _stored(Path(name)) if stored else _named(name, args, image_size)
    return ModelCost(
        name,
        input_size,
        count(model, input_size),
        activation_memory(countable(model), input_size),
        None if stored or args or image_size else PUBLISHED.get(name),
    )


def _stored(path: Path) -> tuple[nn.Module, tuple[int, int, int]]:
    model, record = load_model(path)
    return model, record.input_size


def _named(
    name: str, args: dict[str, Any], image_size: int | None
) -> tuple[nn.Module, tuple[int, int, int]]:
    if image_size is not None and image_size < 1:
        raise InputError(f"--image-size must be at least 1, got {image_size}")
    channels, height, width = registered_preprocessing(name)["input_size"]
    size = (args.get("in_chans", channels), image_size or height, image_size or width)
    model = _build(name, {**input_args(name, size), **args})
    if unseen := unseen_pixels(model, size):
        warn(f"warning: {unseen}")
    return model, size


def _build(name: str, args: dict[str, Any]) -> nn.Module:
    """Builds a model, without drawing its weights if it can: costs do not depend on them."""
    try:
        return create_model(name, **{"weight_init": "skip", **args})
    except InputError:
        return create_model(name, **args)
