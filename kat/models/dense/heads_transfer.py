"""What a dense model has beside its transformer, carried from one model to another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from kat.errors import InputError
from kat.models.dense.attention import offsets_of_grid
from kat.models.dense.model import TRANSFORMER, DenseModel
from kat.text import listing

_OF_TRANSFORMER = "backbone.body."
"""What goes with the transformer whatever the task: the vectors of relative positions."""


@dataclass(frozen=True)
class Surroundings:
    """The neck, the heads and the relative positions of a dense model.

    Args:
        task: of the model.
        weights: by the names of its state dict, none of the transformer.
        of_classes: how the names of those begin that have a part for each class.
    """

    task: str
    weights: dict[str, Tensor]
    of_classes: tuple[str, ...]

    @classmethod
    def of(cls, model: DenseModel) -> Surroundings:
        """Those of a model; the tensors are its own."""
        state = model.state_dict().items()
        weights = {n: value.detach() for n, value in state if not n.startswith(TRANSFORMER)}
        return cls(model.task, weights, model.class_layers)

    def for_other_classes(self) -> Surroundings:
        """Without what has a part for each class."""
        kept = {n: w for n, w in self.weights.items() if not n.startswith(self.of_classes)}
        return replace(self, weights=kept)

    def fitted_to(self, model: DenseModel, source: str) -> dict[str, Tensor]:
        """What a model takes of them, by its names and of its sizes.

        A model for the same task takes all, but for what has a part for each class where there are
        other classes; a model for another task the relative positions, if it has any.

        Args:
            model: is left as it is.
            source: what to call them in an error.

        Raises:
            InputError: a model for the same task whose neck or heads are of another shape.
        """
        own, there = Surroundings.of(model).weights, self.weights
        if model.task == self.task:
            names = dict.fromkeys([*own, *there])
            free = (*self.of_classes, _OF_TRANSFORMER)
            self._check([n for n in names if not n.startswith(free)], own, source)
        else:
            names = dict.fromkeys(n for n in own if n.startswith(_OF_TRANSFORMER))
        taken = {n: _sized(n, there[n], own[n]) for n in names if n in own and n in there}
        return {n: value for n, value in taken.items() if value.shape == own[n].shape}

    def _check(self, names: list[str], own: dict[str, Tensor], source: str) -> None:
        """Checks that these are there and of one shape in both."""
        sizes = [{n: value.shape for n, value in side.items()} for side in (self.weights, own)]
        wrong = [name for name in names if sizes[0].get(name) != sizes[1].get(name)]
        if wrong:
            raise InputError(
                f"{source} has another neck or other heads than the model ({listing(wrong)}):"
                " build the model with the same arguments (model.args)"
            )


def _sized(name: str, value: Tensor, own: Tensor) -> Tensor:
    """Relative positions for a grid of another size; anything else as it is."""
    if ".rel_pos_" not in name or value.shape == own.shape:
        return value
    return offsets_of_grid(value, (len(own) + 1) // 2)
