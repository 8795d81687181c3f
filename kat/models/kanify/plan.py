"""What kanify puts where: the table, putting it in place, taking it out again, and a record."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models.kanify.find import Mlp
from kat.models.kanify.fit import Fitted
from kat.nn import GroupRational
from kat.tables import aligned
from kat.text import listing

_FUSED_INFERENCE = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
"""Attributes by which ``nn.TransformerEncoder`` and its layers choose code for inference that reads
the weights and bypasses the modules, and the values that keep them from it."""

VERSION = 1
"""Of the record."""

_placed: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""The rationals that plans have in place, numbered in the order in which the plans were applied."""
_numbers = itertools.count()

_COLUMNS = ("MLP", "widths", "function", "groups", "parameters", "error", "RMS", "on")


@dataclass(frozen=True)
class Replacement:
    """One MLP, and the rationals that make a GR-KAN MLP of it.

    Args:
        mlp: where it is.
        act1: F_1, the identity, for the input of the first linear map; None where the activation of
            another replaced MLP is in front of it already.
        act2: F_2, for the place of the activation.
        fitted: the coefficients that F_2 starts with, and their errors.
    """

    mlp: Mlp
    act1: GroupRational | None
    act2: GroupRational
    fitted: Fitted

    @property
    def rationals(self) -> dict[str, GroupRational]:
        """Its rationals, by the names that they have in the model."""
        before = {} if self.act1 is None else {f"{self.mlp.first}.act1": self.act1}
        return {**before, self.mlp.activation: self.act2}

    @property
    def parameters(self) -> int:
        """How many parameters it adds."""
        return sum(p.numel() for act in self.rationals.values() for p in act.parameters())

    def row(self) -> list[str]:
        """Its line of the table."""
        groups = "-" if self.act1 is None else str(self.act1.num_groups)
        low, high = self.fitted.interval
        return [
            self.mlp.activation,
            "-".join(map(str, self.mlp.widths)),
            str(self.mlp.function),
            f"{groups}, {self.act2.num_groups}",
            str(self.parameters),
            f"{self.fitted.max_error:.1e}",
            f"{self.fitted.rms_error:.1e}",
            f"{'seen in ' if self.fitted.seen else ''}[{low:.3g}, {high:.3g}]",
        ]

    def record(self) -> dict[str, Any]:
        """Its entry of :meth:`Plan.record`."""
        return {
            "mlp": {**asdict(self.mlp), "widths": list(self.mlp.widths)},
            "groups": [self.act1 and self.act1.num_groups, self.act2.num_groups],
            "share": self.act2.share,
            "coefficients": self.fitted.coefficients.to_dict(),
            "max_error": self.fitted.max_error,
            "rms_error": self.fitted.rms_error,
            "seen": self.fitted.seen,
        }


@dataclass
class Plan:
    """The replacements for a model, in place or not; ``print(plan)`` shows them as a table.

    Args:
        model: the model that they are for.
        replacements: one an MLP.
        passed_over: activations that are in no MLP, and why.
    """

    model: nn.Module
    replacements: list[Replacement]
    passed_over: dict[str, str]
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _planned: list[tuple[Any, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._planned = [_modules_of(self.model, r.mlp) for r in self.replacements]

    def __reduce__(self) -> NoReturn:
        """Copies and pickles are refused: the copy would take the rationals out of this model."""
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
        """How many parameters the rationals have."""
        return sum(replacement.parameters for replacement in self.replacements)

    def apply(self) -> None:
        """Puts the rationals in place; after :meth:`undo`, with the coefficients they had.

        They get the device and dtype that the weights have now.

        Raises:
            InputError: they are in place, or the model has been changed since the plan was made; it
                stays as it is.
        """
        if self.applied:
            raise InputError("this plan is in place already")
        for replacement, planned in zip(self.replacements, self._planned, strict=True):
            _check_unchanged(self.model, replacement, planned)
        number = next(_numbers)
        for replacement in self.replacements:
            self._undo += _put(self.model, replacement)
            _placed[replacement.act2] = number

    def undo(self) -> None:
        """Takes the rationals out: the activations are the objects they were.

        Weights stay as they are, trained since or not. Plans for one model are undone in the
        reverse order.

        Raises:
            InputError: they are not in place, something else has been put there since, or a later
                plan is in place.
        """
        if not self.applied:
            raise InputError("this plan is not in place: nothing to undo")
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for replacement in self.replacements:
            for name, act in replacement.rationals.items():
                if modules.get(name) is not act:
                    raise InputError(
                        f"{name} has been replaced since by something else; put the rational back"
                        " there first"
                    )
        last = max(_placed[replacement.act2] for replacement in self.replacements)
        if any(_placed.get(module, -1) > last for module in self.model.modules()):
            raise InputError("a later plan for this model is in place; undo that one first")
        while self._undo:
            self._undo.pop()()
        for replacement in self.replacements:
            del _placed[replacement.act2]

    def record(self) -> dict[str, Any]:
        """What :func:`kat.models.kanify.kanify_like` needs to kanify another model in the same way.

        Numbers, texts, lists and dictionaries: JSON holds it.
        """
        return {
            "kanify": VERSION,
            "mlps": [replacement.record() for replacement in self.replacements],
        }

    def save(self, path: str | Path) -> None:
        """Writes the record as a JSON file.

        Raises:
            InputError: no such folder, or the path is a folder.
        """
        check_target(Path(path))
        write_text(Path(path), json.dumps(self.record(), indent=2) + "\n")

    def __str__(self) -> str:
        """The table, and the activations that were passed over."""
        rows = [list(_COLUMNS), *(replacement.row() for replacement in self.replacements)]
        lines = [aligned(rows)]
        count, state = len(self.replacements), "in place" if self.applied else "not in place"
        lines.append(f"MLPs: {count}, parameters added: {self.parameters}, {state}")
        for reason in dict.fromkeys(self.passed_over.values()):
            names = [name for name, why in self.passed_over.items() if why == reason]
            lines.append(f"left alone: {listing(names, 1)}: {reason}")
        return "\n".join(lines)


def activation_of(model: nn.Module, mlp: Mlp) -> Any:
    """What is in the activation's place now: a module, or a function.

    Raises:
        AttributeError: the model has no such place.
    """
    owner, attribute = _owner(model, mlp)
    return getattr(owner, attribute)


def place_of(model: nn.Module, mlp: Mlp) -> dict[str, Any]:
    """Device and dtype of the first linear map; float32 where the weights are quantised."""
    weight = model.get_submodule(mlp.first).weight
    assert isinstance(weight, torch.Tensor)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


def _modules_of(model: nn.Module, mlp: Mlp) -> tuple[Any, ...]:
    """The activation and the linear maps that are in an MLP's places now.

    Raises:
        AttributeError: the model has no such place.
    """
    linear_maps = (model.get_submodule(name) for name in (mlp.first, mlp.second))
    return (activation_of(model, mlp), *linear_maps)


def _check_unchanged(model: nn.Module, replacement: Replacement, planned: tuple[Any, ...]) -> None:
    try:
        now = _modules_of(model, replacement.mlp)
    except AttributeError:
        now = (None,) * len(planned)
    taken = replacement.act1 is not None and hasattr(planned[1], "act1")
    if taken or any(a is not b for a, b in zip(now, planned, strict=True)):
        raise InputError(
            f"the MLP of {replacement.mlp.activation} has been changed since it was planned;"
            " call kanify again"
        )


def _owner(model: nn.Module, mlp: Mlp) -> tuple[nn.Module, str]:
    """The module that holds the activation, and the name it has there."""
    path, _, attribute = mlp.activation.rpartition(".")
    return model.get_submodule(path), attribute


def _put(model: nn.Module, replacement: Replacement) -> list[Callable[[], None]]:
    """Puts one replacement in place, and returns what takes it out, to be called from the end."""
    owner, attribute = _owner(model, replacement.mlp)
    place = place_of(model, replacement.mlp)
    for act in replacement.rationals.values():
        _move(act, **place)
    undo = [_set(owner, attribute, replacement.act2.train(owner.training))]
    first = model.get_submodule(replacement.mlp.first)
    if replacement.act1 is not None:
        first.add_module("act1", replacement.act1.train(first.training))
        undo.append(lambda: delattr(first, "act1"))
        hook: RemovableHandle = first.register_forward_pre_hook(_through_act1, with_kwargs=True)
        undo.append(hook.remove)
    for module in _path(model, replacement.mlp.activation):
        undo += [
            _set(module, name, value)
            for name, value in _FUSED_INFERENCE.items()
            if name in vars(module)
        ]
    return undo


def _move(act: GroupRational, device: torch.device, dtype: torch.dtype) -> None:
    """To a device and dtype; planned on the meta device, with the coefficients it starts with."""
    if act.weight_numerator.is_meta and device.type != "meta":
        act.to_empty(device=device).reset_parameters()
    act.to(device=device, dtype=dtype)


def _through_act1(
    linear: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """W F(x) + b for a linear map that keeps its class, its parameters and their names."""
    act1 = linear.get_submodule("act1")
    if args:
        return (act1(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: act1(kwargs[name])}


def _set(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute, and returns what sets it back, with children in their old order."""
    before = getattr(module, name)
    setattr(module, name, value)

    def back() -> None:
        if not isinstance(before, nn.Module):
            delattr(module, name)  # a function cannot take the place of a child
        setattr(module, name, before)

    return back


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """All modules that a name leads through, the model first."""
    parts = name.split(".")[:-1]
    return [model.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1)]
