"""The gated GR-KAN MLP: a SwiGLU or GEGLU whose gate has a learnable activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError, check_choice, check_count
from kat.nn.blocks import Modules
from kat.nn.coefficients import Init, count_groups
from kat.nn.grkan import KEEPS, Keep, pair
from kat.nn.init import Scheme, init_own_
from kat.nn.layer import gate, run_layers
from kat.nn.rational import GroupRational, Share
from kat.ops import Form, Impl


class GatedGRKANMlp(nn.Module):
    """GatedGRKANMlp(x) = W_2 (F(W_g x + b_g) * (W_x x + b_x)) + b_2: GR-KAN in a gated MLP.

    Use this when you want to replace the SwiGLU or GEGLU of a transformer, as in a language model.
    F, the activation of the gate, is a rational for each group of hidden channels. It is
    initialized to ``act_init``: with ``"swish"`` the layer starts as SwiGLU, with ``"gelu"`` as
    GEGLU, up to the error of the preset.

    Names, arguments and state dicts are as in timm's ``SwiGLU``: the children are fc1_g, fc1_x,
    act, drop1, norm, fc2 and drop2. With ``packed=True`` they are as in timm's ``GluMlp`` and
    ``SwiGLUPacked``: fc1 has the rows of both W_g and W_x, in the place of fc1_g and fc1_x. A state
    dict of timm's layer loads with ``strict=False``; the coefficients are all that it lacks.

    Args:
        in_features: width of the input.
        hidden_features: the output width of fc1_g and of fc1_x, or, if packed, of fc1, twice as
            much; in_features by default.
        out_features: width of the output; in_features by default.
        act_layer: unused, for timm's signature; the activation is the rational.
        norm_layer: an optional norm of the product, before fc2.
        bias: whether the linear maps have biases; a pair sets fc1 and fc2 separately.
        drop: dropout rate of the product and of the output; a pair for different ones.
        align_to: round the width of the gate up to a multiple of this.
        packed: whether one linear map fc1 computes gate and value, as in ``GluMlp``.
        gate_last: whether the gate is the second half of fc1, as by default in ``GluMlp``; False as
            in ``SwiGLUPacked``. Only where packed.
        num_groups: number of groups of the rational, a divisor of the width of the gate;
            ``"channels"``: one for each channel; ``"auto"``: the largest divisor up to 8.
        act_init: the initial function F; see ``init`` of :class:`GroupRational`.
        degree, form, share, impl: of the rational, see :class:`GroupRational`.
        weight_init: see :func:`kat.nn.init_grkan_`. For unit normal x, gate u and value v are
            independent unit normals, so E[(F(u) v)^2] = E[F(u)^2] and E[F(u) v] = 0: fc2 gets the
            variance 1 / (width E[F(u)^2]), with ``"centered"`` too, as there is no mean to remove.
        keep: the tensors stored for the backward pass: ``"all"``, or ``"hidden"``, gate and value
            without F(u) v, which it computes again. None, the default, is as in
            :class:`GRKANMlp`.
        device, dtype: of the parameters.

    Raises:
        ValueError: a width that the groups do not divide, or an odd one if packed; ``gate_last``
            where not packed.

    Source: Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202, with the rational of
    arXiv 2409.10594 in the gate.

    Examples:
        >>> import torch
        >>> import kat
        >>> mlp = kat.GatedGRKANMlp(192, 512)
        >>> mlp(torch.randn(2, 197, 192)).shape
        torch.Size([2, 197, 192])
        >>> packed = kat.GatedGRKANMlp(192, 1024, packed=True)  # the same size
        >>> packed.fc1.weight.shape, packed.fc2.weight.shape
        (torch.Size([1024, 192]), torch.Size([192, 512]))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Any = None,
        norm_layer: Callable[..., nn.Module] | None = None,
        bias: bool | tuple[bool, bool] = True,
        drop: float | tuple[float, float] = 0.0,
        align_to: int = 0,
        *,
        packed: bool = False,
        gate_last: bool = False,
        num_groups: int | str = 8,
        act_init: Init = "swish",
        degree: tuple[int, int] = (5, 4),
        form: Form = "A",
        share: Share = "numerator",
        weight_init: Scheme = "variance_preserving",
        keep: Keep | None = None,
        impl: Impl | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if gate_last and not packed:
            raise InputError("gate_last=True needs packed=True: fc1_g and fc1_x have no order")
        hidden_features = hidden_features or in_features
        check_count("hidden_features", hidden_features)
        check_choice("keep", keep, KEEPS)
        width = _gate_width(hidden_features, packed, align_to)
        groups = count_groups(num_groups, "the gate's width", width)
        biases, drops = pair(bias), pair(drop)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.packed = packed
        self.gate_last = gate_last
        self.weight_init = weight_init
        self.keep = keep
        if packed:
            self.fc1 = nn.Linear(in_features, 2 * width, bias=biases[0], **options)
        else:
            self.fc1_g = nn.Linear(in_features, width, bias=biases[0], **options)
            self.fc1_x = nn.Linear(in_features, width, bias=biases[0], **options)
        self.act = GroupRational(
            groups,
            degree,
            act_init,
            form,
            share,
            channel_dim=-1,
            num_channels=width,
            impl=impl,
            **options,
        )
        self.drop1 = nn.Dropout(drops[0])
        self.norm = norm_layer(width, **options) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(width, out_features or in_features, bias=biases[1], **options)
        self.drop2 = nn.Dropout(drops[1])
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights again; timm's models call this after their own initialization."""
        init_gated_(self, self.weight_init)

    def reset_parameters(self) -> None:
        """Reset the rational to its initial function and draw the weights again."""
        self.act.reset_parameters()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        if self.packed:
            first, second = self.fc1(x).chunk(2, dim=-1)
            u, v = (second, first) if self.gate_last else (first, second)
        else:
            u, v = self.fc1_g(x), self.fc1_x(x)
        y = run_layers(self, u, v)  # in blocks of rows, or one at a time; else None
        if y is None:
            y = self.fc2(self.norm(self.drop1(gate(self.act, u, v))))
        return self.drop2(y)

    def grkan_layers(self) -> list[Modules]:
        """Return the modules of the GR-KAN layer, in the order of their calls."""
        return [(self.act, self.drop1, self.norm, self.fc2)]


def init_gated_(mlp: Any, scheme: Scheme) -> None:
    """Draw the weights of a gated MLP: of fc1, or fc1_g and fc1_x, and of fc2 after its ``act``.

    Args:
        mlp: a :class:`GatedGRKANMlp`, or timm's ``SwiGLU``.
        scheme: see :func:`kat.nn.init_grkan_`.
    """
    for linear in (mlp.fc1,) if hasattr(mlp, "fc1") else (mlp.fc1_g, mlp.fc1_x):
        init_own_(linear, nn.Identity(), scheme)
    centered = scheme == "centered"  # as the product is by itself
    init_own_(mlp.fc2, mlp.act, "variance_preserving" if centered else scheme)


def _gate_width(hidden_features: int, packed: bool, align_to: int) -> int:
    if packed and hidden_features % 2:
        raise InputError(f"hidden_features must be even if packed, got {hidden_features}")
    width = hidden_features // 2 if packed else hidden_features
    return width + (-width % align_to if align_to else 0)
