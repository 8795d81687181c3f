"""The adapters of a model: putting them in, their state, merging and removing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.adapt.changes import (
    Change,
    LowRankChange,
    add_change,
    merge_change,
    remove_change,
)
from kat.models.adapt.files import KEY, write
from kat.models.adapt.parallel import NAME, Parallel
from kat.models.adapt.places import Place, adapted_modules
from kat.models.kanify.places import without_fused_inference
from kat.models.kanify.record import note_shares
from kat.models.pretrained import forget, remember
from kat.models.weight_decay import update_no_weight_decay
from kat.nn.sharded import is_sharded, sharded_like, whole
from kat.tables import aligned
from kat.text import listing

Kind = Literal["rational", "low_rank", "parallel"]
"""The kinds of adapters, see :func:`kat.adapt`.

Examples:
    >>> from typing import get_args
    >>> from kat.models.adapt import Kind
    >>> get_args(Kind)
    ('rational', 'low_rank', 'parallel')
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
_SAVED = "_saved_with_adapters"
"""Of a module in ``modules_to_save``: adapters that are made later leave it trainable."""
ADAPTERS = (Change, LowRankChange, Parallel)
VERSION = 1
"""Of the record."""


@dataclass(repr=False)
class Adapters:
    """The adapters in a model; ``print(adapters)`` shows them as a table.

    Args:
        model: the model.
        kind: ``"rational"``, ``"low_rank"`` or ``"parallel"``, see :func:`kat.adapt`.
        places: the settings of each by its name.
        modules_to_save: the names of other modules that are trained and saved with them.
        freeze: whether all else is frozen.

    Examples:
        >>> import kat
        >>> adapters = kat.adapt(kat.GRKANMlp(16, 64), "rational")
        >>> print(adapters)
        adapter  kind      trainable
        act1     rational  38
        act2     rational  38
        trainable: 76 of 2280 parameters
        >>> adapters.save("adapter")
    """

    model: nn.Module
    kind: Kind
    places: dict[str, Place]
    modules_to_save: list[str] = field(default_factory=list)
    freeze: bool = True
    _in_place: bool = field(default=False, repr=False)
    _restore: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _trainable: dict[str, bool] = field(default_factory=dict, repr=False)
    _before: set[str] | None = field(default=None, repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuses copies and pickles: they would change this model."""
        raise InputError("adapters belong to their model; save(folder) keeps them")

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The adapters, and the modules that are saved with them, by name.

        Raises:
            InputError: the adapters were merged or removed.
        """
        if not self._in_place:
            raise InputError("these adapters were merged or removed; call kat.adapt again")
        names = [self._module_name(place) for place in self.places]
        return {name: self.model.get_submodule(name) for name in (*names, *self.modules_to_save)}

    def put(self) -> None:
        """Puts them into the model, trainable; adapters that were there before stay so."""
        self._trainable = {n: p.requires_grad for n, p in self.model.named_parameters()}
        self._before = adapted_modules(self.model)
        others = [m for m in self.model.modules() if isinstance(m, ADAPTERS) or _SAVED in vars(m)]
        kept = {id(parameter) for module in others for parameter in module.parameters()}
        for name, parameter in self.model.named_parameters():
            self._restore.append(_setter(self.model, name))
            if self.freeze and id(parameter) not in kept:
                parameter.requires_grad_(False)
        for name in self.modules_to_save:
            module = self.model.get_submodule(name)
            self._remember(name)
            module.requires_grad_(True)
            setattr(module, _SAVED, True)
        for name, place in self.places.items():
            if self.kind == "parallel":
                self._put_parallel(name, place)
            else:
                self._put_rational(name, place)
        self._in_place = True
        update_no_weight_decay(self.model)
        remember(self.model, self.record())

    def record(self) -> dict[str, Any]:
        """All that :func:`kat.models.adapt.load_adapters` needs beside the tensors, for JSON."""
        return {
            KEY: VERSION,
            "kind": self.kind,
            "places": self.places,
            "modules_to_save": self.modules_to_save,
            "freeze": self.freeze,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Their tensors by full name; those of a sharded model whole, on every process."""
        return {name: whole(tensor).detach() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copies the tensors of a :meth:`state_dict` into the model.

        Raises:
            InputError: a name or a shape differs, or a dtype is not of floating-point numbers;
                nothing is copied then.
        """
        own = self._tensors()
        for problem, names in (
            ("lacks", own.keys() - state.keys()),
            ("has more than the adapters of this model:", state.keys() - own.keys()),
        ):
            if names:
                raise InputError(f"the state {problem} {listing(sorted(names))}")
        for name, tensor in own.items():
            if tensor.is_floating_point() and not state[name].is_floating_point():
                raise InputError(f"{name} holds no floating-point numbers, but {state[name].dtype}")
            if state[name].shape != tensor.shape:
                raise InputError(
                    f"{name} has the shape {tuple(state[name].shape)} in the state, but"
                    f" {tuple(tensor.shape)} in the model"
                )
        for name, tensor in own.items():
            tensor.copy_(sharded_like(state[name].to(tensor.dtype), tensor))

    def save(self, folder: str | Path) -> None:
        """Writes ``adapter_model.safetensors`` and ``adapter_config.json``: nothing of the model.

        All processes of ``torch.distributed`` call it, and the first writes.

        Args:
            folder: is created if it does not exist.

        Raises:
            InputError: the folder cannot be written, or the adapters were merged or removed.
            MissingPackage: safetensors is missing.
        """
        write(Path(folder), self.record(), self.state_dict())

    def merge(self) -> None:
        """Leaves a plain model that computes the same: the coefficients are its own.

        The same is trainable as before the adapters were made.
        Low-rank changes become coefficients, a row for each group (``share="none"``).

        Raises:
            InputError: the adapters are parallel, or were merged or removed, others were made after
                them, or the model is sharded.
        """
        if self.kind == "parallel":
            raise InputError(
                "parallel adapters cannot be merged: they have activations of their own, which no"
                " weight of the model can hold. They stay in place"
            )
        modules = self._removable_modules()
        for name in self.places:
            merge_change(modules[name])
        self._leave()
        note_shares(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trainable.get(name, parameter.requires_grad))

    def remove(self) -> None:
        """Takes them out: the model computes what it did before, and the same is trainable.

        Raises:
            InputError: the adapters were merged or removed, others were made after them, or the
                model is sharded.
        """
        modules = self._removable_modules()
        for name in self.places:
            if self.kind == "parallel":
                modules[self._module_name(name)].take_out(self.model.get_submodule(name))
            else:
                remove_change(modules[name])
        while self._restore:
            self._restore.pop()()
        self._leave()

    def __repr__(self) -> str:
        """One line; ``print`` shows the table."""
        return f"<{len(self.places)} adapters of the kind {self.kind!r}>"

    def __str__(self) -> str:
        """The table of what is trainable."""
        rows = [["adapter", "kind", "trainable"]]
        for name, module in self.modules.items():
            kind = "saved with them" if name in self.modules_to_save else self.kind
            rows.append([name or "(the model)", kind, str(_count(module, trainable=True))])
        trainable, of_all = (_count(self.model, trainable=only) for only in (True, False))
        return "\n".join([*aligned(rows), f"trainable: {trainable} of {of_all} parameters"])

    def _module_name(self, place: str) -> str:
        return f"{place}.{NAME}".lstrip(".") if self.kind == "parallel" else place

    def _put_rational(self, name: str, place: Place) -> None:
        act: Any = self.model.get_submodule(name)
        dtype = _trained_dtype(act.weight_numerator)
        self._remember(name, dtype)
        act.to(dtype)
        add_change(act, place["rank"])

    def _put_parallel(self, name: str, place: Place) -> None:
        first, last = self.model.get_submodule(place["first"]), self.model.get_submodule(name)
        weight = next(first.parameters())
        d_in, width, d_out = place["widths"]
        bottleneck = Parallel((d_in, width, d_out), weight.device, _trained_dtype(weight))
        bottleneck.put(first, last)
        self._restore += without_fused_inference(self.model, name)

    def _remember(self, name: str, trained: torch.dtype | None = None) -> None:
        """For :meth:`remove`: the parameters and buffers that training, as ``trained``, changes."""
        module = self.model.get_submodule(name)
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            value = tensor.detach().clone()
            full = f"{name}.{key}".lstrip(".")
            self._restore.append(_setter(self.model, full, value, trained or tensor.dtype))

    def _leave(self) -> None:
        self._in_place = False
        for name in self.modules_to_save:
            vars(self.model.get_submodule(name)).pop(_SAVED, None)
        self._restore.clear()
        update_no_weight_decay(self.model)
        forget(self.model, self.record())

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}".lstrip("."): tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }

    def _removable_modules(self) -> dict[str, Any]:
        """As ``modules``, of a whole model to which no adapters were added since."""
        if any(map(is_sharded, self.model.parameters())):
            raise InputError(
                "the model is sharded; save the adapters, load them into the whole model, and"
                " change that"
            )
        modules = self.modules
        later = adapted_modules(self.model) - set(self.places) - (self._before or set())
        if self._before is not None and later:
            raise InputError(
                f"other adapters were made after these, at {listing(sorted(later))}: merge or"
                " remove them first"
            )
        return modules


def _setter(
    model: nn.Module, name: str, value: Tensor | None = None, trained: torch.dtype | None = None
) -> Callable[[], None]:
    """What restores a parameter or a buffer; in its dtype of now if that is not as it was trained.

    The model may have moved to another dtype with the adapters, and may have other tensors by then.
    """
    trainable = _tensor(model, name).requires_grad

    def restore() -> None:
        tensor = _tensor(model, name)
        if value is not None:
            dtype = value.dtype if tensor.dtype == trained else tensor.dtype
            tensor.data = value.to(tensor.device, dtype)
        tensor.requires_grad_(trainable)

    return restore


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, key = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), key)
    return tensor


def _trained_dtype(weight: Tensor) -> torch.dtype:
    """That of trained parameters beside a weight: half precision would lose small steps."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _count(module: nn.Module, *, trainable: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
