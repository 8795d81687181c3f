"""MLPs that GR-KAN is compared with: a fixed activation, and SwiGLU at equal parameters."""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp, SwiGLU
from torch import nn

from kat.nn.gated import init_gated_
from kat.nn.init import Scheme, init_grkan_


class FixedMlp(Mlp):
    """W_2 f(W_1 x + b_1) + b_2: timm's ``Mlp`` with the initialization of a GR-KAN MLP.

    A GR-KAN MLP with its rationals replaced by fixed functions.

    Args:
        in_features, hidden_features, out_features, **kwargs: arguments of timm's ``Mlp``;
            ``act_layer`` is f.
        weight_init: the initialization of W_1, with the identity before it, and of W_2, with f
            before it; see :func:`kat.nn.init_grkan_`.

    Raises:
        ValueError: an unknown scheme.

    Examples:
        >>> import torch
        >>> from kat.models import FixedMlp
        >>> FixedMlp(16, 64, act_layer=torch.nn.SiLU)(torch.randn(8, 16)).shape
        torch.Size([8, 16])
    """

    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        *,
        weight_init: Scheme = "variance_preserving",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden_features, out_features, **kwargs)
        self.weight_init = weight_init
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights again; timm's models call this after their own initialization."""
        init_grkan_(self.fc1, nn.Identity(), self.weight_init)
        init_grkan_(self.fc2, self.act, self.weight_init)


class SwiGLUMlp(SwiGLU):
    """W_2 (SiLU(W_g x + b_g) * (W_1 x + b_1)) + b_2, with as many parameters as an MLP.

    Its three matrices have two thirds of the MLP's hidden width. The parameter counts are equal up
    to the rounding of the width and the bias of the gate.

    Args:
        in_features: width of the input.
        hidden_features: hidden width of the MLP that it replaces; in_features by default.
        out_features: width of the output; in_features by default.
        act_layer: unused; the gate is SiLU.
        **kwargs: arguments of timm's ``SwiGLU``.
        weight_init: the initialization of :class:`kat.nn.GatedGRKANMlp`, or None for timm's: the
            gates start constant, at SiLU(1).

    Raises:
        ValueError: an unknown scheme.

    Source: Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202.

    Examples:
        >>> import torch
        >>> from kat.models import SwiGLUMlp
        >>> mlp = SwiGLUMlp(16, 48)
        >>> mlp(torch.randn(8, 16)).shape, mlp.fc2.in_features
        (torch.Size([8, 16]), 32)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Any = None,
        *,
        weight_init: Scheme | None = None,
        **kwargs: Any,
    ) -> None:
        hidden = gated_width(hidden_features or in_features)
        super().__init__(in_features, hidden, out_features, nn.SiLU, **kwargs)
        self.weight_init = weight_init
        if weight_init is not None:
            self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights again; timm's models call this after their own initialization."""
        if self.weight_init is None:
            super().init_weights()
        else:
            init_gated_(self, self.weight_init)


def gated_width(hidden_features: int, multiple: int = 1) -> int:
    """Return two thirds of a hidden width: a gated MLP then has as many parameters as the MLP.

    Args:
        hidden_features: hidden width of the MLP.
        multiple: of which the width is to be one; the nearest.
    """
    return round(hidden_features * 2 / 3 / multiple) * multiple or multiple
