"""One MLP and its rationals: their place in the model, putting them there, taking them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from kat.errors import InputError
from kat.models.kanify.finders.linear import linear_map
from kat.models.kanify.finders.mlp import Mlp
from kat.models.kanify.fit import Fitted
from kat.models.kanify.places import device_and_dtype, parts_of, put_activation
from kat.nn import GroupRational, Share


@dataclass(frozen=True)
class Replacement:
    """One MLP, and the rationals that make it a GR-KAN MLP.

    Args:
        mlp: the names of its parts in the model.
        act1: F_1, the identity, before the first linear map; None if there is none, or if the
            activation of another replaced MLP precedes that.
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
        shares: tuple[Share, Share],
    ) -> Replacement:
        """Builds the rationals for an MLP.

        Args:
            model: with the MLP; its weights determine device and dtype.
            mlp: the names of its parts.
            fitted: the coefficients of F_2.
            groups: the groups of F_1 and F_2; None for no F_1.
            shares: what the groups of F_1 and F_2 share, see :class:`kat.GroupRational`.
        """
        c, linear = fitted.coefficients, linear_map(model.get_submodule(mlp.first))
        settings: dict[str, Any] = {"degree": c.degree, "form": c.form}
        settings |= device_and_dtype(model, mlp)
        act1, dim = None, mlp.channel_dim
        if groups[0] and linear:
            before = linear.channel_dim
            act1 = GroupRational(
                groups[0],
                init="identity",
                share=shares[0],
                channel_dim=before,
                num_channels=mlp.widths[0],
                **settings,
            )
        act2 = GroupRational(
            groups[1],
            init=c,
            share=shares[1],
            channel_dim=dim,
            num_channels=mlp.widths[1],
            **settings,
        )
        return cls(mlp, act1, act2, fitted)

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
            self.mlp.function + ("" if self.mlp.gate is None else ", gated"),
            f"{groups}, {self.act2.num_groups}",
            str(self.parameters),
            f"{self.fitted.max_error:.1e}",
            f"{self.fitted.rms_error:.1e}",
            f"{'seen in ' if self.fitted.seen else ''}[{low:.3g}, {high:.3g}]",
        ]

    def record(self) -> dict[str, Any]:
        """Its entry in the record of the plan."""
        return {
            "mlp": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(self.mlp).items()
            },
            "groups": [self.act1 and self.act1.num_groups, self.act2.num_groups],
            "share": [(self.act1 or self.act2).share, self.act2.share],
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
        if self.mlp.call is not None:
            taken = taken or hasattr(parts[0], self.mlp.attribute)
        return not taken and all(a is b for a, b in zip(now, parts, strict=True))

    def put(self, model: nn.Module) -> list[Callable[[], None]]:
        """Puts the rationals in place.

        Returns:
            The functions that take them out, to be called from last to first.
        """
        for act in self.rationals.values():
            _move(act, **device_and_dtype(model, self.mlp))
        owner, first = (model.get_submodule(n) for n in (self.mlp.owner, self.mlp.first))
        undo = put_activation(model, self.mlp, self.act2.train(owner.training))
        if self.act1 is not None:
            first.add_module("act1", self.act1.train(first.training))
            undo.append(lambda: delattr(first, "act1"))
            hook: RemovableHandle = first.register_forward_pre_hook(_through_act1, with_kwargs=True)
            undo.append(hook.remove)
        return undo


def _move(act: GroupRational, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a rational; one on the meta device gets its initial coefficients."""
    if act.weight_numerator.is_meta and device.type != "meta":
        act.to_empty(device=device).reset_parameters()
    act.to(device=device, dtype=dtype)


def _through_act1(
    linear: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The input F(x) for a linear map that keeps its class, its parameters and their names.

    Raises:
        InputError: another module has taken the map's place, with its hook but without ``act1``.
    """
    act1 = getattr(linear, "act1", None)
    if kwargs is None or act1 is None:
        raise InputError(
            f"a linear map of kanify was replaced by {type(linear).__name__}, and its rational act1"
            " is lost. To quantize, use kat.deploy.quantize_int8, which keeps it, or call kanify"
            " with config=KanifyConfig(first=False)"
        )
    if args:
        return (act1(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: act1(kwargs[name])}
