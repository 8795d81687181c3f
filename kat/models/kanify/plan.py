"""The plan of kanify: a table of the replacements, applying them and undoing them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.utils import parametrize

from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models.kanify.calibrate import Run, run_batch
from kat.models.kanify.change import Change, measure_change
from kat.models.kanify.finders.trace import CODE
from kat.models.kanify.places import parts_of
from kat.models.kanify.replacement import Replacement
from kat.models.pretrained import forget, remember
from kat.models.weight_decay import update_no_weight_decay
from kat.tables import aligned
from kat.text import listing

VERSION = 3
"""Of the record."""

_applied: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""The rationals that are in place, with a number that increases with each plan applied."""
_numbers = itertools.count()

_COLUMNS = ("MLP", "widths", "function", "groups", "parameters", "error", "RMS", "on")


@dataclass(repr=False)
class Plan:
    """The replacements for a model, in place or not; ``print(plan)`` shows them as a table.

    Args:
        model: the model.
        replacements: one for each MLP.
        skipped: activations that are not in an MLP, and why.
        change: of the outputs on the batch that :meth:`measure` got last.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> print(plan)
        MLP  widths   function  groups  parameters  error    RMS      on
        1    16-64-4  gelu      8, 8    76          3.1e-03  2.2e-03  [-6, 6]
        MLPs: 1, parameters added: 76, in place
        >>> plan.undo()
        >>> plan.model[1]
        GELU(approximate='none')
    """

    model: nn.Module
    replacements: list[Replacement]
    skipped: dict[str, str]
    change: Change | None = None
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _parts: list[tuple[Any, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parts = [parts_of(self.model, r.mlp) for r in self.replacements]

    def __reduce__(self) -> NoReturn:
        """Refuses copies and pickles: undoing a copy would change this model."""
        raise InputError(
            "a plan belongs to its model and cannot be copied or pickled; save(path) or record()"
            " keep it for kat.models.kanify.kanify_like"
        )

    @property
    def applied(self) -> bool:
        """Whether the rationals are in place."""
        return bool(self._undo)

    @property
    def parameters(self) -> int:
        """The number of parameters of the rationals."""
        return sum(replacement.parameters for replacement in self.replacements)

    def apply(self) -> None:
        """Puts the rationals in place; after :meth:`undo`, with the coefficients they had.

        They get the present device and dtype of the weights.

        Raises:
            InputError: they are in place, or the model has changed since the plan was made. The
                model is then unchanged.
        """
        if self.applied:
            raise InputError("this plan is in place already")
        for replacement, parts in zip(self.replacements, self._parts, strict=True):
            if not replacement.is_possible(self.model, parts):
                raise InputError(
                    f"the MLP of {replacement.mlp.activation} has been changed since it was"
                    " planned; call kanify again"
                )
        number = next(_numbers)
        for replacement in self.replacements:
            self._undo += replacement.put(self.model)
            _applied[replacement.act2] = number
        update_no_weight_decay(self.model)
        remember(self.model, self.record())

    def undo(self) -> None:
        """Takes the rationals out: the activations are the same objects as before.

        Weights are left as they are, trained or not. Plans for one model are undone in the reverse
        order.

        Raises:
            InputError: they are not in place, have been replaced since or have adapters, a later
                plan is in place, or the class of a module with regenerated code has changed.
        """
        if not self.applied:
            raise InputError("this plan is not in place: nothing to undo")
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for name, module in modules.items():
            kind = type(module)
            if hasattr(kind, CODE) and CODE not in vars(kind):
                raise InputError(
                    f"the class of {name or 'the model'} is now {kind.__name__}, not the one that"
                    " kanify set; undo the plan before FSDP or others change the class"
                )
        for replacement in self.replacements:
            for name, act in replacement.rationals.items():
                if modules.get(name) is not act:
                    raise InputError(
                        f"{name} has been replaced since by something else; put the rational back"
                        " there first"
                    )
                if parametrize.is_parametrized(act):
                    raise InputError(
                        f"{name} has adapters; merge() or remove() them before the plan is undone"
                    )
        last = max(_applied[replacement.act2] for replacement in self.replacements)
        if any(_applied.get(module, -1) > last for module in self.model.modules()):
            raise InputError("a later plan for this model is in place; undo that one first")
        while self._undo:
            self._undo.pop()()
        for replacement in self.replacements:
            del _applied[replacement.act2]
        update_no_weight_decay(self.model)
        forget(self.model, self.record())

    def measure(self, batch: Any, run: Run = run_batch) -> Change:
        """Measures how much the rationals change the outputs of the MLPs and the model on a batch.

        The model runs once as it is and once with all MLPs replaced. The table shows the result.

        Args:
            batch, run: see :func:`kat.kanify`.

        Raises:
            InputError: the plan is in place, or the output has no numbers.
        """
        if self.applied:
            raise InputError("a plan is measured before it is in place; undo it first")
        self.change = measure_change(self.model, self.replacements, batch, run)
        return self.change

    def record(self) -> dict[str, Any]:
        """The input of :func:`kat.models.kanify.kanify_like` for another model, ready for JSON."""
        return {
            "kanify": VERSION,
            "mlps": [replacement.record() for replacement in self.replacements],
        }

    def save(self, path: str | Path) -> None:
        """Writes the record as a JSON file.

        Raises:
            InputError: the folder does not exist, or the path is a folder.
        """
        check_target(Path(path))
        write_text(Path(path), json.dumps(self.record(), indent=2) + "\n")

    def __repr__(self) -> str:
        """One line; ``print`` shows the table."""
        state = "in place" if self.applied else "not in place"
        return f"<plan of {len(self.replacements)} MLPs, {state}>"

    def __str__(self) -> str:
        """The table, and the activations that were skipped."""
        rows = [list(_COLUMNS), *(replacement.row() for replacement in self.replacements)]
        if self.change:
            changes = (f"{change:.1e}" for change in self.change.of_each.values())
            rows = [[*row, last] for row, last in zip(rows, ("moved", *changes), strict=True)]
        lines = aligned(rows)
        count, state = len(self.replacements), "in place" if self.applied else "not in place"
        lines.append(f"MLPs: {count}, parameters added: {self.parameters}, {state}")
        if self.change:
            lines.append(f"the model's output moves by {100 * self.change.of_all:.2g} %")
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, why in self.skipped.items() if why == reason]
            lines.append(f"passed over: {listing(names, 1)}: {reason}")
        return "\n".join(lines)
