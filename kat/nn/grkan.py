"""GR-KAN layers: W F(x) + bias with a learnable rational F, and the MLP of two of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kat.errors import check_choice
from kat.nn.blocks import Modules
from kat.nn.coefficients import Init, count_groups
from kat.nn.init import Scheme, init_own_
from kat.nn.layer import run_layers
from kat.nn.rational import GroupRational, Share
from kat.ops import Form, Impl

Keep = Literal["all", "hidden", "input"]
"""The tensors that a GR-KAN layer keeps for its backward pass.

``"all"``: also the outputs of the rationals, as a ViT keeps the outputs of GELU. ``"hidden"``: the
inputs of the rationals, of which the backward pass computes F(x) again. ``"input"``: the input of
the MLP alone. A layer that is no MLP takes ``"input"`` as ``"hidden"``.
"""
KEEPS: tuple[Keep | None, ...] = (None, *get_args(Keep))


class GRKANLinear(nn.Module):
    """GRKAN(x) = W F(x) + bias: a learnable rational for each group of inputs, then a linear map.

    Use this when you want to replace an activation and the ``nn.Linear`` after it.

    Args:
        in_features: d_in, divisible by num_groups.
        out_features: d_out.
        bias: whether the linear map has a bias.
        num_groups: number of groups of the rational; ``"channels"``: one for each channel;
            ``"auto"``: the largest divisor of the width up to 8.
        init, degree, form, share, impl: of the rational, see :class:`GroupRational`.
        weight_init: ``"variance_preserving"`` (the paper's), ``"centered"``, ``"kaiming"`` or
            ``"trunc_normal"``, see :func:`kat.nn.init_grkan_`.
        keep: the tensors stored for the backward pass: ``"all"``, x and F(x), or ``"hidden"``, x
            alone, from which it computes F(x) again. None, the default, stores all on a GPU, in
            compiled code and in a call of fewer than 2^15 values of x, and else x alone.
        device, dtype: of the parameters.

    Shape:
        x (..., d_in) to (..., d_out).

    Cost: d_in d_out + bias + (m + 1 + n G) parameters.

    Source: arXiv 2409.10594, section 4.3.

    Examples:
        >>> import torch
        >>> import kat
        >>> layer = kat.GRKANLinear(192, 10, init="gelu")
        >>> layer(torch.randn(4, 192)).shape
        torch.Size([4, 10])
        >>> [name for name, _ in layer.named_parameters()]
        ['act.weight_numerator', 'act.weight_denominator', 'fc.weight', 'fc.bias']
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        num_groups: int | str = 8,
        init: Init = "swish",
        *,
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
        groups = count_groups(num_groups, "in_features", in_features)
        check_choice("keep", keep, KEEPS)
        self.weight_init = weight_init
        self.keep = keep
        self.act = GroupRational(
            groups,
            degree,
            init,
            form,
            share,
            channel_dim=-1,
            num_channels=in_features,
            impl=impl,
            device=device,
            dtype=dtype,
        )
        self.act.feeds_product = True
        self.fc = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights again; timm's models call this after their own initialization."""
        init_own_(self.fc, self.act, self.weight_init)

    def reset_parameters(self) -> None:
        """Reset the rational to its initial function and draw the weights again."""
        self.act.reset_parameters()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """W F(x) + bias."""
        y = run_layers(self, x)  # in blocks of rows, or one at a time; else None
        if y is None:
            y = self.fc(self.act(x))
        return y

    def grkan_layers(self) -> list[Modules]:
        """Return the modules of the layer, in the order of their calls."""
        return [(self.act, self.fc)]


class GRKANMlp(nn.Module):
    """GRKANMlp(x) = W_2 F_2(W_1 F_1(x) + b_1) + b_2: the MLP of a KAT block, two GR-KAN layers.

    Use this when you want to replace the MLP (linear map, activation, linear map) of a transformer.
    It has the signature of timm's ``Mlp``, without ``use_conv``: timm's models accept it as
    ``mlp_layer=``. F_1 starts as the identity and F_2 as ``act_init``, so the layer starts as an
    ordinary MLP.

    Args:
        in_features: width of the input, divisible by num_groups.
        hidden_features: width between the layers, divisible by num_groups; in_features by default.
        out_features: width of the output; in_features by default.
        act_layer: unused, for timm's signature; the activations are the rationals.
        norm_layer: an optional norm before the second linear map, as in timm's ``Mlp``.
        bias: whether the linear maps have biases; a pair sets fc1 and fc2 separately.
        drop: dropout rate after each rational; a pair for different ones.
        num_groups: number of groups of both rationals; ``"channels"``: one for each channel;
            ``"auto"``: for each width its largest divisor up to 8.
        degree, form, share, impl: of both rationals, see :class:`GroupRational`.
        first_init: the initial function F_1; ``"none"``: no F_1, as in an ordinary MLP.
        act_init: the initial function F_2, ``"swish"`` or ``"gelu"`` in the paper; see ``init`` of
            :class:`GroupRational`.
        weight_init: see :class:`GRKANLinear`.
        keep: the tensors stored for the backward pass, see :data:`kat.nn.Keep`. For an MLP with a
            hidden layer four times as wide as its input, ``"all"`` stores 10 times as much as the
            input, ``"hidden"`` 5 times and ``"input"`` once; ``"input"`` costs one more product
            with W_1. None, the default, is ``"all"`` on a GPU, in compiled code and in small calls
            on a CPU (fewer than 2^15 values of x), and else ``"hidden"``, where layers run in
            blocks of rows.
        device, dtype: of the parameters.

    The children act1, fc1, act2 and fc2 have the names of the released checkpoints.

    Source: arXiv 2409.10594, sections 4.3 to 4.5.

    Examples:
        >>> import torch
        >>> import kat
        >>> mlp = kat.GRKANMlp(192, 768)
        >>> mlp(torch.randn(2, 197, 192)).shape
        torch.Size([2, 197, 192])
        >>> sum(p.numel() for p in mlp.parameters())  # an MLP's, and 2 (6 + 8 x 4)
        295948
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
        *,
        num_groups: int | str = 8,
        first_init: Init = "identity",
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
        hidden_features = hidden_features or in_features
        out_features = out_features or in_features
        self.num_groups = num_groups
        first_groups = count_groups(num_groups, "in_features", in_features)
        groups = count_groups(num_groups, "hidden_features", hidden_features)
        check_choice("keep", keep, KEEPS)
        biases, drops = pair(bias), pair(drop)
        self.weight_init = weight_init
        self.keep = keep
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        rational = partial(
            GroupRational,
            degree=degree,
            form=form,
            share=share,
            channel_dim=-1,
            impl=impl,
            device=device,
            dtype=dtype,
        )
        self.act1: nn.Module = nn.Identity()
        self.drop1: nn.Module = nn.Identity()
        if first_init != "none":
            self.act1 = rational(first_groups, init=first_init, num_channels=in_features)
            self.act1.feeds_product = True
            self.drop1 = nn.Dropout(drops[0])
        self.fc1 = nn.Linear(in_features, hidden_features, bias=biases[0], **options)
        self.act2 = rational(groups, init=act_init, num_channels=hidden_features)
        self.act2.feeds_product = True
        self.drop2 = nn.Dropout(drops[1])
        self.norm = norm_layer(hidden_features, **options) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_features, out_features, bias=biases[1], **options)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw fc1 and fc2 again; timm's models call this after their own initialization."""
        init_own_(self.fc1, self.act1, self.weight_init)
        init_own_(self.fc2, self.act2, self.weight_init)

    def reset_parameters(self) -> None:
        """Reset the rationals to their initial functions and draw the weights again."""
        for act in (self.act1, self.act2):
            if isinstance(act, GroupRational):
                act.reset_parameters()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        y = run_layers(self, x)  # in blocks of rows, or one at a time; else None
        if y is None:
            x = self.fc1(self.drop1(self.act1(x)))
            y = self.fc2(self.norm(self.drop2(self.act2(x))))
        return y

    def grkan_layers(self) -> list[Modules]:
        """Return the modules of both layers, in the order of their calls."""
        first = self.act1, self.drop1, self.fc1
        return [first, (self.act2, self.drop2, self.norm, self.fc2)]


def pair(value: Any) -> tuple[Any, Any]:
    """One value for each linear map of an MLP, as timm's MLPs take them: a pair, or one for both.

    Raises:
        ValueError: more or fewer than two values.
    """
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second
