"""The plan of kanify: the rationals of each MLP, a table of them, and putting them in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kat.documents import write_json
from kat.errors import InputError
from kat.files import check_target
from kat.models.kanify.calibrate import put
from kat.models.kanify.fit import Fitted
from kat.models.kanify.walk import Mlp, linear_map
from kat.models.pretrained import remember
from kat.models.weight_decay import update_no_weight_decay
from kat.nn import GroupRational, Share, rationals
from kat.tables import aligned
from kat.text import listing

VERSION = 3
"""Version of the record."""

_COLUMNS = ("MLP", "widths", "function", "groups", "parameters", "error", "RMS", "on")


def device_and_dtype(model: nn.Module, mlp: Mlp) -> dict[str, Any]:
    """Device and dtype of the first linear map; float32 if its weights are quantized."""
    weight = next(model.get_submodule(mlp.first).parameters())
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


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
        """Build the rationals for an MLP.

        Args:
            model: with the MLP; its weights determine device and dtype.
            mlp: the names of its parts.
            fitted: the coefficients of F_2.
            groups: the groups of F_1 and F_2; None for no F_1.
            shares: what the groups of F_1 and F_2 share, see :class:`kat.GroupRational`.
        """
        c, linear = fitted.coefficients, linear_map(model.get_submodule(mlp.first))
        same: dict[str, Any] = {"degree": c.degree, "form": c.form, **device_and_dtype(model, mlp)}
        d_in, hidden, _ = mlp.widths
        act1 = None
        if groups[0] and linear:
            before = {"channel_dim": linear.channel_dim, "num_channels": d_in, **same}
            act1 = GroupRational(groups[0], init="identity", share=shares[0], **before)
        after = {"channel_dim": mlp.channel_dim, "num_channels": hidden, **same}
        return cls(mlp, act1, GroupRational(groups[1], init=c, share=shares[1], **after), fitted)

    @property
    def rationals(self) -> dict[str, GroupRational]:
        """The rationals of the MLP, by their names in the model."""
        before = {} if self.act1 is None else {f"{self.mlp.first}.act1": self.act1}
        return {**before, self.mlp.activation: self.act2}

    @property
    def parameters(self) -> int:
        """The number of parameters of its rationals."""
        return sum(p.numel() for act in self.rationals.values() for p in act.parameters())

    def row(self) -> list[str]:
        """The row of the MLP in the table of the plan."""
        mlp, fitted = self.mlp, self.fitted
        low, high = fitted.coefficients.interval
        return [
            mlp.activation,
            "-".join(map(str, mlp.widths)),
            mlp.function + (", gated" if mlp.gate is not None else ""),
            f"{self.act1.num_groups if self.act1 else '-'}, {self.act2.num_groups}",
            str(self.parameters),
            f"{fitted.max_error:.1e}",
            f"{fitted.rms_error:.1e}",
            f"{'seen in ' if fitted.seen else ''}[{low:.3g}, {high:.3g}]",
        ]

    def record(self) -> dict[str, Any]:
        """The entry of the MLP in the record of the plan."""
        mlp = asdict(self.mlp)
        return {
            "mlp": {key: [*value] if type(value) is tuple else value for key, value in mlp.items()},
            "groups": [self.act1 and self.act1.num_groups, self.act2.num_groups],
            "share": [(self.act1 or self.act2).share, self.act2.share],
            "coefficients": self.fitted.coefficients.to_dict(),
            "max_error": self.fitted.max_error,
            "rms_error": self.fitted.rms_error,
            "seen": self.fitted.seen,
        }


@dataclass(repr=False)
class Plan:
    """The replacements for a model, in place or not; ``print(plan)`` shows them as a table.

    Args:
        model: the model.
        replacements: one for each MLP.
        skipped: activations that are not in an MLP, and why.
        applied: the rationals are in place.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> plan = kat.kanify(model, dry_run=True)
        >>> print(plan)
        MLP  widths   function  groups  parameters  error    RMS      on
        1    16-64-4  gelu      8, 8    76          3.1e-03  2.2e-03  [-6, 6]
        MLPs: 1, parameters added: 76, not in place
        >>> plan.apply()
        >>> type(model[1]).__name__
        'GroupRational'
    """

    model: nn.Module
    replacements: list[Replacement]
    skipped: dict[str, str]
    applied: bool = False

    @property
    def parameters(self) -> int:
        """The number of parameters of the rationals."""
        return sum(replacement.parameters for replacement in self.replacements)

    def apply(self) -> None:
        """Put the rationals in place, with the present device and dtype of the weights.

        Raises:
            InputError: there are rationals already. The model is then unchanged.
        """
        taken = {name for r in self.replacements for name in r.rationals} & {*rationals(self.model)}
        if taken:
            raise InputError(f"{listing(sorted(taken))}: there is a rational already")
        for replacement in self.replacements:
            for act in replacement.rationals.values():
                act.to(**device_and_dtype(self.model, replacement.mlp))
        put(self.model, {replacement.mlp: replacement.act2 for replacement in self.replacements})
        for replacement in self.replacements:
            first = self.model.get_submodule(replacement.mlp.first)
            replacement.act2.train(first.training)
            if replacement.act1 is not None:
                first.add_module("act1", replacement.act1.train(first.training))
                first.register_forward_pre_hook(_through_act1, with_kwargs=True)
        self.applied = True
        update_no_weight_decay(self.model)
        remember(self.model, self.record())

    def record(self) -> dict[str, Any]:
        """The input of :func:`kat.models.kanify.kanify_like` for another model, ready for JSON."""
        return {"kanify": VERSION, "mlps": [each.record() for each in self.replacements]}

    def save(self, path: str | Path) -> None:
        """Write the record as a JSON file.

        Raises:
            InputError: the folder does not exist, or the path is a folder.
        """
        check_target(Path(path))
        write_json(Path(path), self.record())

    def __repr__(self) -> str:
        """The table, and the activations that were skipped."""
        rows = [list(_COLUMNS), *(replacement.row() for replacement in self.replacements)]
        lines = aligned(rows)
        count, state = len(self.replacements), "in place" if self.applied else "not in place"
        lines.append(f"MLPs: {count}, parameters added: {self.parameters}, {state}")
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, why in self.skipped.items() if why == reason]
            lines.append(f"passed over: {listing(names, 1)}: {reason}")
        return "\n".join(lines)


def _through_act1(
    linear: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The input F(x) for a linear map that keeps its class, its parameters and their names."""
    if args:
        return (linear.act1(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: linear.act1(kwargs[name])}
