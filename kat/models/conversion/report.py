"""The report of a conversion: which weights were carried over, and how far the outputs moved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kat.documents import write_json
from kat.models.evaluation_mode import evaluation_mode
from kat.text import counted, listing

_GOAL = 1e-2
"""The movement above which a closer fit is suggested."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Movement:
    """The distance between the outputs of a model and of the ViT that it was made from.

    Args:
        max: max |KAT - ViT| / max |ViT|, over images and classes.
        rms: the same ratio of root mean squares.
        images: their number.

    Examples:
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> moved = kat.models.init_from_vit(kat.models.create_model("kat_micro"), vit).moved
        >>> moved.images, moved.rms < 0.05
        (8, True)
    """

    max: float
    rms: float
    images: int


@dataclass(frozen=True)
class Conversion:
    """The record of how the weights of a ViT were carried over.

    Args:
        source: the ViT.
        carried: names of the parameters that come from the source.
        resized: the resampled ones of them: name to (shape in the source, shape here).
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
        """Return the report in one line."""
        kinds = ("carried", "resized", "dropped", "fresh")
        parts = [f"{len(getattr(self, kind))} {kind}" for kind in kinds]
        if self.moved is not None:
            parts.append(f"outputs moved by {self.moved.max:.1e} (max), {self.moved.rms:.1e} (RMS)")
        return f"from {self.source}: {', '.join(parts)}"

    def rows(self, images: str = "images") -> list[tuple[str, str]]:
        """Return the report as rows of a label and a text.

        Args:
            images: what to call the images that the movement was measured on.
        """
        rows = [("from", self.source), ("carried", counted(len(self.carried), "tensor"))]
        rows += [("resized", f"{n} {there} to {here}") for n, (there, here) in self.resized.items()]
        rows += [("dropped", name) for name in self.dropped]
        rows += [("fresh", f"{counted(len(self.fresh), 'tensor')}: {listing(self.fresh, 4)}")]
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
        """Return the report as a dictionary for JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the report as a JSON file."""
        write_json(path, self.to_dict())


def movement(model: nn.Module, vit: nn.Module, images: Tensor) -> Movement:
    """Return the distance between the outputs of a KAT and its ViT; 0 / 0 counts as 0."""
    with evaluation_mode(model), evaluation_mode(vit):
        expected, outputs = vit(images), model(images)
    off = outputs - expected

    def ratio(size: Tensor, to: Tensor) -> float:
        return 0.0 if size == 0 else (size / to).item()

    return Movement(
        max=ratio(off.abs().max(), expected.abs().max()),
        rms=ratio(off.square().mean().sqrt(), expected.square().mean().sqrt()),
        images=len(images),
    )
