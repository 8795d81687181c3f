"""The plan of kanify: the rational of each activation, a table, and putting them in place."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kat.documents import write_json
from kat.errors import InputError
from kat.files import check_target
from kat.models.config_record import remember
from kat.models.kanify.calibrate import put
from kat.models.kanify.fit import Fitted, KanifyConfig
from kat.models.kanify.walk import Site
from kat.models.weight_decay import update_no_weight_decay
from kat.nn import GroupRational, rationals
from kat.tables import aligned
from kat.text import listing

VERSION = 6
"""Version of the record."""

_LARGE_ERROR = 0.01
_FAR = 0.25


def device_and_dtype(model: nn.Module, site: Site) -> dict[str, Any]:
    """Device and dtype of the layer before; float32 if its weights are quantized."""
    weight = next(chain(model.get_submodule(site.first).parameters(), model.parameters()))
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


@dataclass(frozen=True)
class Replacement:
    """One activation, and the rational in its place.

    Args:
        site: the names of the activation and of the layers around it.
        act: the rational.
        fitted: its initial coefficients, and their errors.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> plan.replacements[0].act.num_groups, plan.replacements[0].parameters
        (8, 38)
    """

    site: Site
    act: GroupRational
    fitted: Fitted

    @classmethod
    def make(cls, site: Site, fitted: Fitted, config: KanifyConfig) -> Replacement:
        """Build the rational for an activation, in float64.

        Args:
            site: the activation. If its calls have different numbers of channels, groups divide
                all of them.
            fitted: the coefficients.
            config: the settings that are not of the fit.
        """
        c = fitted.coefficients
        form: Any = c.form
        act = GroupRational(
            config.groups or "auto",
            c.degree,
            c,
            form,
            config.share,
            site.channel_dim,
            num_channels=math.gcd(*site.channels),
            dtype=torch.float64,
        )
        if len(site.channels) > 1:
            act.num_channels = None
        return cls(site, act, fitted)

    @property
    def parameters(self) -> int:
        """The number of parameters of the rational."""
        return sum(p.numel() for p in self.act.parameters())

    @property
    def is_large(self) -> bool:
        """Return True if the fit is far off, at the inputs or, of one to inputs, beyond them."""
        fitted = self.fitted
        is_far = fitted.seen and fitted.largest_relative_error > _FAR
        return bool(is_far) or fitted.relative_error > _LARGE_ERROR

    def row(self) -> list[str]:
        """Return the row of the activation in the table of the plan."""
        site, fitted = self.site, self.fitted
        low, high = fitted.seen or fitted.coefficients.interval
        widths = ("-" if site.second else ", ").join(map(str, site.widths))
        return [
            site.activation,
            widths,
            site.function + (", gated" if site.gated else ""),
            str(self.act.num_groups),
            str(self.parameters),
            f"{fitted.max_error:.1e}{' !' if self.is_large else ''}",
            f"{fitted.rms_error:.1e}",
            f"{'seen in ' if fitted.seen else ''}[{low:.3g}, {high:.3g}]",
        ]

    def record(self) -> dict[str, Any]:
        """Return the entry of the activation in the record of the plan."""
        rational = {"groups": self.act.num_groups, "share": self.act.share}
        return {"mlp": asdict(self.site), "fitted": asdict(self.fitted), "rational": rational}


@dataclass(repr=False)
class Plan:
    """The replacements for a model, in place or not; ``print(plan)`` shows them as a table.

    Args:
        model: the model.
        replacements: one for each activation.
        skipped: activations that are not replaced, and why.
        applied: the rationals are in place.
        others: how many of those skipped are outside of MLPs, and would be replaced with them.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> plan = kat.kanify(model, dry_run=True)
        >>> print(plan)
        activation  widths   function  groups  parameters  error    RMS      on
        1           16-64-4  gelu      8       38          3.1e-03  2.2e-03  [-6, 6]
        activations: 1, parameters added: 38, not in place
        not calibrated: 1; calibration=BATCHES fits them to your data
        >>> plan.apply()
        >>> type(model[1]).__name__
        'GroupRational'
    """

    model: nn.Module
    replacements: list[Replacement]
    skipped: Mapping[str, str]
    applied: bool = False
    others: int = 0

    @property
    def parameters(self) -> int:
        """The number of parameters of the rationals."""
        return sum(replacement.parameters for replacement in self.replacements)

    def apply(self) -> None:
        """Put the rationals in place, with the present device and dtype of the weights.

        Raises:
            InputError: there are rationals already. The model is then unchanged.
        """
        acts = {replacement.site: replacement.act for replacement in self.replacements}
        taken = {site.activation for site in acts} & {*rationals(self.model)}
        if taken:
            raise InputError(f"{listing(sorted(taken))}: there is a rational already")
        for site, act in acts.items():
            act.to(**device_and_dtype(self.model, site))
            act.train(self.model.get_submodule(site.first).training)
        put(self.model, acts)
        self.applied = True
        update_no_weight_decay(self.model)
        remember(self.model, self.record())

    def record(self) -> dict[str, Any]:
        """Return the input of :func:`kat.models.kanify.kanify_like`, ready for JSON."""
        return {"kanify": VERSION, "mlps": [each.record() for each in self.replacements]}

    def save(self, path: str | Path) -> None:
        """Write the record as a JSON file.

        Raises:
            InputError: the folder does not exist, or the path is a folder.
        """
        check_target(Path(path))
        write_json(Path(path), self.record())

    def advice(self) -> str:
        """Return the worst of the fits that are marked, and what lowers its error."""
        large = [replacement for replacement in self.replacements if replacement.is_large]
        if not large:
            return ""
        worst = max(large, key=lambda replacement: replacement.fitted.largest_relative_error)
        fitted, (low, high) = worst.fitted, worst.fitted.coefficients.interval
        return (
            f"the fit to {worst.site.function} in {worst.site.activation} is off by"
            f" {100 * fitted.relative_error:.2g} % of its size, and by up to {fitted.max_error:.2g}"
            f" in [{low:.3g}, {high:.3g}]; {len(large)} of {len(self.replacements)} fits are off,"
            " so the model's output changes: kat.kanify(model, calibration=BATCHES) with batches"
            " that cover the range of later inputs, or a higher degree in"
            " config=kat.KanifyConfig(...), lowers this"
        )

    def __repr__(self) -> str:
        """Return the table, what lowers the change of the output, and what was passed over."""
        names = ["activation", "widths", "function", "groups", "parameters", "error", "RMS", "on"]
        lines = aligned([names, *(replacement.row() for replacement in self.replacements)])
        count, state = len(self.replacements), "in place" if self.applied else "not in place"
        lines.append(f"activations: {count}, parameters added: {self.parameters}, {state}")
        if self.advice():
            lines.append(f"! {self.advice()}")
        unseen = sum(not replacement.fitted.seen for replacement in self.replacements)
        if unseen:
            lines.append(f"not calibrated: {unseen}; calibration=BATCHES fits them to your data")
        lines += by_reason(self.skipped)
        if self.others:
            lines.append(f'kat.kanify(model, what="activations") takes {self.others} of these')
        return "\n".join(lines)


def by_reason(skipped: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why activations were passed over, with their number."""
    names = defaultdict(list)
    for name, reason in skipped.items():
        names[reason].append(name)
    return [f"passed over {len(n)}: {listing(n, 1)}: {reason}" for reason, n in names.items()]
