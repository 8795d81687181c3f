"""The name of ``rational.torch``, the package rational-activations.

Source: https://github.com/ml-research/rational_activations
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.nn import preset
from kat.ops import rational

__all__ = ["Rational"]


class Rational(nn.Module):
    """One rational function for all values of x, with ``numerator`` and ``denominator`` as there.

    Args:
        approx_func: the initial function, one of ``kat.nn.preset_names()``.
        degrees: of numerator and denominator; any, where the package has three.
        cuda: True for parameters on the GPU, False for the CPU, or a device; None: a GPU if there
            is one, as in the package.
        version: ``"A"`` or ``"B"``, the forms of :func:`kat.rational`.
        trainable, train_numerator, train_denominator: which parameters require gradients.
        name: ignored.

    Raises:
        InputError: version C, D or N, or an unknown function.
    """

    def __init__(
        self,
        approx_func: str = "leaky_relu",
        degrees: tuple[int, int] = (5, 4),
        cuda: Any = None,
        version: str = "A",
        trainable: bool = True,
        train_numerator: bool = True,
        train_denominator: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if version not in ("A", "B"):
            raise InputError(
                f"version {version!r} of rational.torch.Rational is not in kat.compat, which has"
                ' "A" and "B": for C, D and N install rational-activations'
            )
        cuda = torch.cuda.is_available() if cuda is None else cuda
        device = {True: "cuda", False: "cpu"}.get(cuda, cuda)
        found = preset(approx_func, degrees, version)
        numerator, denominator = (
            torch.tensor(values, device=device) for values in (found.numerator, found.denominator)
        )
        self.numerator = nn.Parameter(numerator, trainable and train_numerator)
        self.denominator = nn.Parameter(denominator, trainable and train_denominator)
        self.degrees = found.degree
        self.version: Any = version

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with x's shape."""
        return rational(x, self.numerator[None], self.denominator[None], form=self.version)
