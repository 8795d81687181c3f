"""The report of a conversion: what happened to each weight, and how far the outputs moved."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kat.files import write_text
from kat.models.conversion.activation_fit import Movement
from kat.text import counted, listing

Shape = tuple[int, ...]

_GOAL = 1e-2
"""The movement above which a closer fit is suggested."""


@dataclass(frozen=True)
class Conversion:
    """What happened to the weights of a ViT.

    Args:
        source: the ViT.
        carried: names of the parameters that come from the source.
        resized: those of them that were resampled: name to (shape in the source, shape here).
        dropped: entries of the source that the model has no place for.
        fresh: names of the parameters that do not come from the source: rationals, a head for
            other classes.
        activation: the activation of the source, to which act2 was fitted; None if it was not.
        half_widths: r of the interval [-r, r] of the fit, for each block.
        fit_error: the largest |act2 - activation| on these intervals.
        moved: the distance of the outputs from the source's, with the same resizing; None if
            nothing was fitted.

    Examples:
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> model, record, conversion = kat.models.convert_vit(vit, "kat_micro")
        >>> conversion.activation, len(conversion.carried), conversion.dropped
        ('GELU', 56, [])
    """

    source: str
    carried: list[str]
    resized: dict[str, tuple[Shape, Shape]]
    dropped: list[str]
    fresh: list[str]
    activation: str | None = None
    half_widths: tuple[int, ...] = ()
    fit_error: float | None = None
    moved: Movement | None = None

    def summary(self) -> str:
        """The report in one line."""
        counts = {"carried": self.carried, "resized": self.resized, "dropped": self.dropped}
        parts = [f"{len(names)} {kind}" for kind, names in {**counts, "fresh": self.fresh}.items()]
        if self.moved is not None:
            parts.append(f"outputs moved by {self.moved.max:.1e} (max), {self.moved.rms:.1e} (RMS)")
        return f"from {self.source}: {', '.join(parts)}"

    def rows(self, images: str = "images") -> list[tuple[str, str]]:
        """The report as rows of a label and a text.

        Args:
            images: what to call the images that the movement was measured on.
        """
        rows = [("from", self.source), ("carried", counted(len(self.carried), "tensor"))]
        for name, (there, here) in self.resized.items():
            rows.append(("resized", f"{name} {there} to {here}"))
        rows += [("dropped", name) for name in self.dropped]
        fresh = f"{counted(len(self.fresh), 'tensor')}: {listing(self.fresh, 4)}"
        rows.append(("fresh", fresh if self.fresh else "nothing"))
        if self.activation is not None:
            widths = ", ".join(map(str, self.half_widths))
            rows.append(("act2", f"{self.activation} on [-r, r], r = {widths} block by block"))
            rows.append(("", f"maximum error there {self.fit_error:.1e}"))
        if self.moved is not None:
            rows.append(("outputs moved", f"{self.moved.max:.2e} max, {self.moved.rms:.2e} RMS"))
            rows.append(("", f"relative to the ViT's, on {self.moved.images} {images}"))
            if max(self.moved.max, self.moved.rms) > _GOAL:
                rows.append(("", "more than 1e-2: --args '{degree: [9, 8]}' gives a closer fit"))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Writes the report as a JSON file."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
