"""The plan of kanify: the rational of each MLP, a table of them, and putting them in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kat.documents import write_json
from kat.errors import InputError
from kat.files import check_target
from kat.models.config_record import remember
from kat.models.kanify.calibrate import put
from kat.models.kanify.fit import Fitted, KanifyConfig, default_groups
from kat.models.kanify.walk import Mlp
from kat.models.weight_decay import update_no_weight_decay
from kat.nn import GroupRational, rationals
from kat.tables import aligned
from kat.text import listing

VERSION = 4
"""Version of the record."""

_COLUMNS = ("MLP", "widths", "function", "groups", "parameters", "error", "RMS", "on")


def device_and_dtype(model: nn.Module, mlp: Mlp) -> dict[str, Any]:
    """Device and dtype of the first linear map; float32 if its weights are quantized."""
    weight = next(model.get_submodule(mlp.first).parameters())
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


@dataclass(frozen=True)
class Replacement:
    """One MLP, and the rational in place of its activation.

    Args:
        mlp: the names of its parts in the model.
        act: the rational.
        fitted: its initial coefficients, and their errors.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> plan.replacements[0].act.num_groups, plan.replacements[0].parameters
        (8, 38)
    """

    mlp: Mlp
    act: GroupRational
    fitted: Fitted

    @classmethod
    def make(cls, mlp: Mlp, fitted: Fitted, config: KanifyConfig) -> Replacement:
        """Build the rational for an MLP, in float64.

        Args:
            mlp: the names of its parts.
            fitted: the coefficients.
            config: the settings that are not of the fit.
        """
        c, width = fitted.coefficients, mlp.widths[1]
        form: Any = c.form
        act = GroupRational(
            config.groups or default_groups(width),
            c.degree,
            c,
            form,
            config.share,
            mlp.channel_dim,
            num_channels=width,
            dtype=torch.float64,
        )
        return cls(mlp, act, fitted)

    @property
    def parameters(self) -> int:
        """The number of parameters of the rational."""
        return sum(p.numel() for p in self.act.parameters())

    def row(self) -> list[str]:
        """The row of the MLP in the table of the plan."""
        mlp, fitted = self.mlp, self.fitted
        low, high = fitted.coefficients.interval
        return [
            mlp.activation,
            "-".join(map(str, mlp.widths)),
            mlp.function + (", gated" if mlp.gated else ""),
            str(self.act.num_groups),
            str(self.parameters),
            f"{fitted.max_error:.1e}",
            f"{fitted.rms_error:.1e}",
            f"{'seen in ' if fitted.seen else ''}[{low:.3g}, {high:.3g}]",
        ]

    def record(self) -> dict[str, Any]:
        """The entry of the MLP in the record of the plan."""
        rational = {"groups": self.act.num_groups, "share": self.act.share}
        return {"mlp": asdict(self.mlp), "fitted": asdict(self.fitted), "rational": rational}


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
        1    16-64-4  gelu      8       38          3.1e-03  2.2e-03  [-6, 6]
        MLPs: 1, parameters added: 38, not in place
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
        acts = {replacement.mlp: replacement.act for replacement in self.replacements}
        taken = {mlp.activation for mlp in acts} & {*rationals(self.model)}
        if taken:
            raise InputError(f"{listing(sorted(taken))}: there is a rational already")
        for mlp, act in acts.items():
            act.to(**device_and_dtype(self.model, mlp))
            act.train(self.model.get_submodule(mlp.first).training)
        put(self.model, acts)
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
