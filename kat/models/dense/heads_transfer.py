"""Transfer of necks, heads and relative positions from one dense model to another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from kat.errors import InputError
from kat.models.dense.attention import offsets_of_grid
from kat.models.dense.model import TRANSFORMER, DenseModel
from kat.text import listing

_RELATIVE_POSITIONS = "backbone.body."
"""The prefix of the relative positions, which are transferred to any task."""


@dataclass(frozen=True)
class DenseHeads:
    """The neck, the heads and the relative positions of a dense model.

    Args:
        task: the task of the model.
        weights: by the names of its state dict, without the transformer.
        class_layers: the prefixes of the weights that have a part for each class.
        optional_layers: the prefixes of the weights that not all such models have.

    Examples:
        >>> import kat
        >>> from kat.models.dense import DenseHeads
        >>> heads = DenseHeads.of(kat.models.create_model("kat_upernet_micro", num_classes=3))
        >>> heads.task, len(heads.weights) > len(heads.without_class_layers().weights)
        ('segmentation', True)
    """

    task: str
    weights: dict[str, Tensor]
    class_layers: tuple[str, ...]
    optional_layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: DenseModel) -> DenseHeads:
        """Those of a model, sharing its tensors."""
        state = model.state_dict().items()
        weights = {n: value.detach() for n, value in state if not n.startswith(TRANSFORMER)}
        return cls(model.task, weights, model.class_layers, model.optional_layers)

    def without_class_layers(self) -> DenseHeads:
        """Without the weights that have a part for each class."""
        kept = {n: w for n, w in self.weights.items() if not n.startswith(self.class_layers)}
        return replace(self, weights=kept)

    def fitted_to(self, model: DenseModel, source: str) -> dict[str, Tensor]:
        """The weights for a model, by its names and of its shapes.

        A model for the same task gets all weights, except those with a part for each class if it
        has another number of classes. A model for another task gets the relative positions.

        Args:
            model: the target; it is not changed.
            source: what to call the weights in an error.

        Raises:
            InputError: a model for the same task with a neck or heads of another shape.
        """
        own = DenseHeads.of(model).weights
        if model.task == self.task:
            self._check_shapes(own, source)
            names = list(own)
        else:
            names = [name for name in own if name.startswith(_RELATIVE_POSITIONS)]
        fitted = {n: _resized(n, self.weights[n], own[n]) for n in names if n in self.weights}
        return {n: value for n, value in fitted.items() if value.shape == own[n].shape}

    def _check_shapes(self, own: dict[str, Tensor], source: str) -> None:
        may_differ = (*self.class_layers, _RELATIVE_POSITIONS)
        shapes = [{n: value.shape for n, value in side.items()} for side in (self.weights, own)]
        lacking = self.weights.keys() ^ own.keys()
        missing = {name for name in lacking if name.startswith(self.optional_layers)}
        wrong = [
            name
            for name in dict.fromkeys([*own, *self.weights])
            if name not in missing
            and not name.startswith(may_differ)
            and shapes[0].get(name) != shapes[1].get(name)
        ]
        if wrong:
            raise InputError(
                f"{source} has another neck or other heads than the model ({listing(wrong)}):"
                " build the model with the same arguments (model.args)"
            )


def _resized(name: str, value: Tensor, own: Tensor) -> Tensor:
    """Relative positions for a grid of another size; any other weight as it is."""
    if ".rel_pos_" not in name or value.shape == own.shape:
        return value
    return offsets_of_grid(value, (len(own) + 1) // 2)
