"""One MLP and its rationals: their place in the model, putting them there, taking them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from kat.errors import InputError
from kat.models.kanify.activation import unsupported
from kat.models.kanify.find import Mlp
from kat.models.kanify.fit import Fitted
from kat.nn import GroupRational, Share

_FUSED_INFERENCE = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
"""The attributes by which ``nn.TransformerEncoder`` and its layers select fused code for inference,
which reads the weights and bypasses the modules, and the values that disable it."""


@dataclass(frozen=True)
class Replacement:
    """One MLP, and the rationals that make it a GR-KAN MLP.

    Args:
        mlp: the names of its parts in the model.
        act1: F_1, the identity, before the first linear map; None if the activation of another
            replaced MLP precedes that.
        act2: F_2, in place of the activation.
        fitted: the initial coefficients of F_2, and their errors.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> plan.replacements[0].act2.num_groups, plan.replacements[0].parameters
        (8, 76)
    """

    mlp: Mlp
    act1: GroupRational | None
    act2: GroupRational
    fitted: Fitted

    @classmethod
    def make(
        cls,
        model: nn.Module,
        mlp: Mlp,
        fitted: Fitted,
        groups: tuple[int | None, int],
        share: Share,
    ) -> Replacement:
        """Builds the rationals for an MLP.

        Args:
            model: with the MLP; its weights determine device and dtype.
            mlp: the names of its parts.
            fitted: the coefficients of F_2.
            groups: the groups of F_1 and F_2; None for no F_1.
            share: see :class:`kat.GroupRational`.
        """
        c = fitted.coefficients
        settings: dict[str, Any] = {"degree": c.degree, "form": c.form, "share": share}
        settings |= device_and_dtype(model, mlp)
        act1 = GroupRational(groups[0], init="identity", **settings) if groups[0] else None
        return cls(mlp, act1, GroupRational(groups[1], init=c, **settings), fitted)

    @property
    def rationals(self) -> dict[str, GroupRational]:
        """Its rationals, by their names in the model."""
        before = {} if self.act1 is None else {f"{self.mlp.first}.act1": self.act1}
        return {**before, self.mlp.activation: self.act2}

    @property
    def parameters(self) -> int:
        """The number of parameters of its rationals."""
        return sum(p.numel() for act in self.rationals.values() for p in act.parameters())

    def row(self) -> list[str]:
        """Its row in the table of the plan."""
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
        """Its entry in the record of the plan."""
        return {
            "mlp": {**asdict(self.mlp), "widths": list(self.mlp.widths)},
            "groups": [self.act1 and self.act1.num_groups, self.act2.num_groups],
            "share": self.act2.share,
            "coefficients": self.fitted.coefficients.to_dict(),
            "max_error": self.fitted.max_error,
            "rms_error": self.fitted.rms_error,
            "seen": self.fitted.seen,
        }

    def is_possible(self, model: nn.Module, parts: tuple[Any, ...]) -> bool:
        """Whether the MLP still consists of these parts, of :func:`parts_of`, without rationals."""
        try:
            now = parts_of(model, self.mlp)
        except AttributeError:
            return False
        taken = self.act1 is not None and hasattr(parts[1], "act1")
        return not taken and all(a is b for a, b in zip(now, parts, strict=True))

    def put(self, model: nn.Module) -> list[Callable[[], None]]:
        """Puts the rationals in place.

        Returns:
            The functions that take them out, to be called from last to first.
        """
        owner, attribute = _owner(model, self.mlp)
        for act in self.rationals.values():
            _move(act, **device_and_dtype(model, self.mlp))
        undo = [_set(owner, attribute, self.act2.train(owner.training))]
        first = model.get_submodule(self.mlp.first)
        if self.act1 is not None:
            first.add_module("act1", self.act1.train(first.training))
            undo.append(lambda: delattr(first, "act1"))
            hook: RemovableHandle = first.register_forward_pre_hook(_through_act1, with_kwargs=True)
            undo.append(hook.remove)
        for module in _modules_on_path(model, self.mlp.activation):
            undo += [
                _set(module, name, value)
                for name, value in _FUSED_INFERENCE.items()
                if name in vars(module)
            ]
        return undo


def activation_of(model: nn.Module, mlp: Mlp) -> Any:
    """The module or function in the place of the activation.

    Raises:
        AttributeError: the model has no such place.
    """
    owner, attribute = _owner(model, mlp)
    return getattr(owner, attribute)


def parts_of(model: nn.Module, mlp: Mlp) -> tuple[Any, ...]:
    """The activation and the two linear maps of an MLP.

    Raises:
        AttributeError: the model has no such place.
    """
    linear_maps = (model.get_submodule(name) for name in (mlp.first, mlp.second))
    return (activation_of(model, mlp), *linear_maps)


def device_and_dtype(model: nn.Module, mlp: Mlp) -> dict[str, Any]:
    """Device and dtype of the first linear map; float32 if its weights are quantized."""
    weight = model.get_submodule(mlp.first).weight
    assert isinstance(weight, torch.Tensor)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


def check_replaceable(model: nn.Module, mlp: Mlp) -> None:
    """Raises InputError for an unknown activation, or if the name of its rational is taken."""
    if mlp.function is None:
        raise unsupported(mlp.activation, activation_of(model, mlp))
    if hasattr(model.get_submodule(mlp.first), "act1"):
        raise InputError(
            f"{mlp.first} has an attribute 'act1', the name for its rational, already; leave this"
            " MLP out with only="
        )


def _owner(model: nn.Module, mlp: Mlp) -> tuple[nn.Module, str]:
    """The module that has the activation, and its name there."""
    path, _, attribute = mlp.activation.rpartition(".")
    return model.get_submodule(path), attribute


def _move(act: GroupRational, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a rational; one on the meta device gets its initial coefficients."""
    if act.weight_numerator.is_meta and device.type != "meta":
        act.to_empty(device=device).reset_parameters()
    act.to(device=device, dtype=dtype)


def _through_act1(
    linear: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The input F(x) for a linear map that keeps its class, its parameters and their names."""
    act1 = linear.get_submodule("act1")
    if args:
        return (act1(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: act1(kwargs[name])}


def _set(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute. Returns what sets it back, with children in their old order."""
    before = getattr(module, name)
    setattr(module, name, value)

    def back() -> None:
        if not isinstance(before, nn.Module):
            delattr(module, name)  # a function cannot replace a child
        setattr(module, name, before)

    return back


def _modules_on_path(model: nn.Module, name: str) -> list[nn.Module]:
    """All modules that contain an attribute of this full name, the model first."""
    parts = name.split(".")[:-1]
    return [model.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1)]
