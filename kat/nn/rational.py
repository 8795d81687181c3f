"""The learnable activation: a rational function for each group of channels, and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args
from weakref import WeakSet

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from kat.errors import InputError, check_choice, check_count, check_is
from kat.nn.coefficients import KANIFY_INTERVAL, Coefficients, Init, check_degree, count_groups
from kat.nn.presets import coefficients_of, given_coefficients
from kat.nn.quadrature import gain
from kat.nn.sharded import full_tensor, sharded_like
from kat.ops import Form, Impl, plain, rational
from kat.ops.arguments import Rational, check_form, check_is_tensor
from kat.ops.torch_internals import (
    has_values,
    is_loaded_by_transformers,
    keep_from_transformers,
    refuse_scripting,
)

Share = Literal["numerator", "denominator", "none"]
"""The coefficients that all groups of a rational share."""
SHARES: tuple[Share, ...] = get_args(Share)
ALIVE: WeakSet[GroupRational] = WeakSet()
"""All rationals of the process. A mark on their parameters would be lost in copies and shards."""


class GroupRational(nn.Module):
    """F(x) = P(x) / Q(x) with learnable coefficients, one function for each group of channels.

    Use this when you want to replace ``nn.GELU`` or another activation by one that learns. The
    number of channels must be divisible by the number of groups.

    Args:
        num_groups: groups into which the channels are divided; with ``num_channels`` also
            ``"channels"`` or ``"auto"``, as of :class:`GRKANLinear`.
        degree: (m, n), the degrees of numerator and denominator; m >= 1, n >= 0.
        init: the initial function: a name (``kat.nn.preset_names()``), a function such as
            ``torch.nn.GELU()``, the path of a ``.json`` file written by ``kat fit`` (read once,
            here), the mapping in such a file, or ``Coefficients``.
        form: ``"A"``, Q = 1 + sum |b_j||x|^j (released checkpoints), or ``"B"``,
            Q = 1 + |sum b_j x^j| (the paper's equation).
        share: the coefficients that all groups share: ``"numerator"`` (as in the released code and
            checkpoints), ``"denominator"`` (as the paper's text says), or ``"none"``.
        channel_dim: the dimension of the channels: 1 for (B, C, H, W), -1 for (B, H, W, C). None:
            the last one; x may then have up to three dimensions.
        num_channels: the number of channels of x, if it is known. x with another number raises an
            error, because tensor parallelism would split groups.
        impl: the backend, as in :func:`kat.rational`.
        inplace: ignored; timm and torchvision pass it to every activation.
        device, dtype: of the coefficients; float32 by default.

    Shape:
        x (..., C, ...) with the channels at ``channel_dim``; the output has the same shape.

    Weights:
        weight_numerator (1 or G, m + 1), weight_denominator (1 or G, n).

    Raises:
        ValueError: an invalid argument or, when called, a number of channels that the groups do not
            divide, or x of four or more dimensions without ``channel_dim``.

    Source: arXiv 2409.10594, sections 4.2 and 4.3.

    Examples:
        >>> import torch
        >>> import kat
        >>> act = kat.GroupRational(num_groups=8, init="gelu")
        >>> x = torch.linspace(-3, 3, 192)
        >>> f"{(act(x) - torch.nn.functional.gelu(x)).abs().max():.4f}"
        '0.0013'
        >>> act.weight_numerator.shape, act.weight_denominator.shape
        (torch.Size([1, 6]), torch.Size([8, 4]))
    """

    feeds_product: bool = False
    """True in a GR-KAN layer: under autocast F(x) has the dtype of the product that follows."""
    _lacks_values: bool = False
    """True from the construction on the meta device until the coefficients are set."""

    def __init__(
        self,
        num_groups: int | str = 8,
        degree: tuple[int, int] = (5, 4),
        init: Init = "swish",
        form: Form = "A",
        share: Share = "numerator",
        channel_dim: int | None = None,
        *,
        num_channels: int | None = None,
        impl: Impl | None = None,
        inplace: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ALIVE.add(self)
        check_form(form)
        check_choice("share", share, SHARES)
        if num_channels is not None:
            num_groups = count_groups(num_groups, "num_channels", num_channels)
        self.num_groups = check_count("num_groups", num_groups)
        self.degree = check_degree(degree)
        self.init: str | Coefficients = given_coefficients(init, self.degree, form)
        self.form = form
        self.share = share
        self.channel_dim = channel_dim
        self.num_channels = num_channels
        self.impl = impl
        rows_a = 1 if share == "numerator" else self.num_groups
        rows_b = 1 if share == "denominator" else self.num_groups
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_numerator = nn.Parameter(torch.empty(rows_a, self.degree[0] + 1, **options))
        self.weight_denominator = nn.Parameter(torch.empty(rows_b, self.degree[1], **options))
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        super().__setstate__(state)
        ALIVE.add(self)

    def reset_parameters(self) -> None:
        """Reset all groups to the initial function."""
        set_coefficients(self, self.initial_coefficients())
        self._lacks_values = not has_values(self.weight_numerator)

    @property
    def _is_hf_initialized(self) -> bool:
        """The mark of transformers, which ``from_pretrained`` sets on a module after loading it."""
        return "_is_hf_initialized" in vars(self)

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        if self._lacks_values:
            set_coefficients(self, self.initial_coefficients(), missing_alone=True)
        keep_from_transformers(self)

    def initial_coefficients(self) -> Coefficients:
        """Return the coefficients of the initial function."""
        return coefficients_of(self.init, self.degree, self.form)

    @torch.no_grad()
    def gain(self) -> float:
        """alpha = 1 / E[F(x)^2], x ~ N(0, 1), for the current coefficients, over all groups.

        NaN if a coefficient is not finite.
        """
        weights = (self.weight_numerator, self.weight_denominator)
        return gain(self.functions) if all(w.isfinite().all() for w in weights) else float("nan")

    def coefficients(self, group: int | None = None) -> Coefficients:
        """Return the current function of a group, as ``init=`` takes it.

        Args:
            group: its index; None if all groups have the same function.

        Raises:
            InputError: the groups differ and none is named, or a coefficient is not finite.
        """
        weights = map(full_tensor, (self.weight_numerator, self.weight_denominator))
        rows = torch.cat([w.detach().expand(self.num_groups, -1) for w in weights], dim=1)
        if group is None and (rows != rows[0]).any():
            raise InputError("the groups have different functions: name one, as in coefficients(0)")
        row, count = rows[group or 0].tolist(), self.degree[0] + 1
        interval = self.initial_coefficients().interval
        return Coefficients(tuple(row[:count]), tuple(row[count:]), self.form, interval)

    def functions(self, x: Tensor) -> Tensor:
        """Return the function of each group at the points x (k,), on the CPU in float64: (G, k).

        x may be a NumPy array. (1, k) if the groups share all coefficients.
        """
        return group_functions(x, self.weight_numerator, self.weight_denominator, self.form)

    def initial_functions(self, x: Tensor) -> Tensor:
        """Return the initial function of all groups at the points x (k,), in float64: (1, k)."""
        c = self.initial_coefficients()
        dtype = self.weight_numerator.dtype
        numerator, denominator = (_exact([v]).to(dtype) for v in (c.numerator, c.denominator))
        return group_functions(x, numerator, denominator, self.form)

    def forward(self, x: Tensor, v: Tensor | None = None) -> Tensor:
        """F(x), or F(x) v for the value v of a gate, with x's shape and dtype."""
        dtype = None
        dim = channels_at(x, self.channel_dim)
        if not isinstance(x, fx.Proxy):
            self._check_channels(x, dim)
            if self.feeds_product and product_dtype(x) != x.dtype:
                dtype = product_dtype(x)
                if torch.compiler.is_compiling():  # fuses the cast with what has made x
                    x = x.to(dtype)
        moves = dim != -1
        y = rational(
            x.movedim(dim, -1) if moves else x,
            self.weight_numerator,
            self.weight_denominator,
            v.movedim(dim, -1) if moves and v is not None else v,
            form=self.form,
            impl=self.impl,
            dtype=dtype,
        )
        return y.movedim(-1, dim) if moves else y

    def _check_channels(self, x: Tensor, dim: int) -> None:
        check_is_tensor("x", x)
        if self.num_channels is not None and x.shape[dim] != self.num_channels:
            raise InputError(
                f"the rational cuts {self.num_channels} channels into {self.num_groups} groups, and"
                f" x has {x.shape[dim]}. If tensor parallelism cuts the layer before"
                " it, leave this MLP out of the plan: it would cut groups. If you changed the"
                " width, set num_channels of the rational"
            )

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Return the arguments, for ``print(module)``."""
        return (
            f"num_groups={self.num_groups}, degree={self.degree}, init={self.init!r},"
            f" form={self.form!r}, share={self.share!r}, channel_dim={self.channel_dim}"
        )


def channels_at(x: Tensor, channel_dim: int | None) -> int:
    """Return the dimension of the channels of x: the last one, if no ``channel_dim`` is given.

    Raises:
        InputError: none is given, and x has four or more dimensions.
    """
    if channel_dim is not None:
        return channel_dim
    if isinstance(x, Tensor) and x.dim() > 3:
        raise InputError(
            "x of more than three dimensions needs a rational with channel_dim=1 for (B, C, H, W)"
            ' or channel_dim=-1 for (B, H, W, C); by name, "rational_nchw" or "rational_nhwc"'
        )
    return -1


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of linear maps of x: autocast's if it is active, but not for float64."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


@torch.no_grad()
def set_coefficients(
    activation: GroupRational, coefficients: Coefficients, *, missing_alone: bool = False
) -> None:
    """Make all groups the one function of these coefficients.

    Args:
        activation: the rational.
        coefficients: of the function.
        missing_alone: leave a numerator or denominator that transformers has loaded.
    """
    for parameter, values in (
        (activation.weight_numerator, coefficients.numerator),
        (activation.weight_denominator, coefficients.denominator),
    ):
        if missing_alone and is_loaded_by_transformers(parameter):
            continue
        rounded = _exact(values).to(parameter.dtype)
        parameter.copy_(sharded_like(rounded.expand(parameter.shape), parameter))


def _exact(values: Sequence[Any]) -> Tensor:
    """Return the values on the CPU, unrounded."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def rationals(model: nn.Module) -> dict[str, GroupRational]:
    """Return the rational layers of a model by name.

    Examples:
        >>> import kat
        >>> list(kat.nn.rationals(kat.GRKANMlp(16)))
        ['act1', 'act2']
    """
    check_is("model", model, nn.Module)
    return {name: act for name, act in model.named_modules() if isinstance(act, GroupRational)}


def rational_parameter_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters of a model that belong to rationals.

    These are coefficients, and what :func:`kat.adapt` adds to them.

    Examples:
        >>> import kat
        >>> sorted(kat.nn.rational_parameter_names(kat.GRKANMlp(16)))[:2]
        ['act1.weight_denominator', 'act1.weight_numerator']
    """
    names: set[str] = set()
    for name, activation in rationals(model).items():
        names.update(dict(activation.named_parameters(prefix=name)))
    return names


def group_functions(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """Return the function of each group at the points x (k,), on the CPU in float64: (G, k).

    Args:
        x: the points.
        numerator, denominator: (1 or G, m + 1) and (1 or G, n), as in :class:`GroupRational`.
        form: ``"A"`` or ``"B"``.

    Examples:
        >>> import torch
        >>> from kat.nn import group_functions
        >>> x_squared = torch.tensor([[0.0, 0.0, 1.0]])
        >>> group_functions(torch.tensor([1.0, 2.0]), x_squared, torch.tensor([[0.0], [1.0]]), "A")
        tensor([[1.0000, 4.0000],
                [0.5000, 1.3333]], dtype=torch.float64)
    """
    a, b = (full_tensor(coefficients).cpu().double() for coefficients in (numerator, denominator))
    groups = max(len(a), len(b))
    columns = torch.as_tensor(x).cpu().double()[:, None].expand(-1, groups)
    return plain.rational(Rational(a, b, form), columns).T


def largest_slopes(numerator: Tensor, denominator: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """max |dF/dc| over x in [-6, 6] and all groups, of each power of the coefficients.

    dF/da_i = x^i / Q and |dF/db_j| = |F| |x|^j / Q.

    Args:
        numerator, denominator: (1 or G, m + 1) and (1 or G, n), as in :class:`GroupRational`.
        form: ``"A"`` or ``"B"``.

    Returns:
        (m + 1,) and (n,), on the CPU in float64.
    """
    m, n = numerator.shape[1] - 1, denominator.shape[1]
    low, high = KANIFY_INTERVAL
    x = torch.linspace(low, high, 241, dtype=torch.float64, device="cpu")
    one = torch.tensor([[1.0] + m * [0.0]], device="cpu")
    inverse_q = group_functions(x, one, denominator, form)
    powers = x.abs() ** torch.arange(max(m, n) + 1, device="cpu")[:, None, None]
    values = group_functions(x, numerator, denominator, form).abs()
    slopes_a = (powers[: m + 1] * inverse_q).amax((1, 2))
    return slopes_a, (powers[1 : n + 1] * inverse_q * values).amax((1, 2))


def keep_even(model: nn.Module) -> list[RemovableHandle]:
    """Make every F of a model smooth and keep it so: Q(x) = 1 + |b_2| x^2 + |b_4| x^4 + ...

    Sets b_1, b_3, ... of form A to zero, and their gradients too, so that no optimizer changes
    them, with weight decay or without. Otherwise F' or F'' of a trained F jumps at x = 0, and a
    loss of derivatives at points, as in physics-informed networks, does not see the jump
    (docs/higher-order.md).

    Call it on the model that you train, after ``fully_shard``: a copy of the model, or a model that
    is sharded later, has the zeros but trains them. Frozen rationals may be unfrozen later.

    Args:
        model: a module that has rationals, or is one.

    Returns:
        The hooks of the gradients; ``remove()`` of each lets the odd b_j train again.

    Raises:
        ValueError: there is no rational; or one of form B, in which even powers do not help; or one
            whose coefficients are parametrized, as :func:`kat.adapt` leaves them.

    Examples:
        >>> import torch
        >>> import kat
        >>> mlp = kat.GRKANMlp(16, 64)
        >>> hooks = kat.nn.keep_even(mlp)
        >>> mlp(torch.randn(4, 16)).square().sum().backward()
        >>> mlp.act2.weight_denominator.grad[:, ::2].abs().max().item()
        0.0
    """
    found = rationals(model)
    refused = [
        name or "the rational"
        for name, activation in found.items()
        if activation.form != "A" or parametrize.is_parametrized(activation)
    ]
    if refused or not found:
        raise ValueError(
            "keep_even needs rationals of form A, since form B has kinks elsewhere too, without"
            " adapters of kat.adapt (merge() them first); "
            + (f"it refuses {', '.join(refused)}" if refused else "the model has no rational")
        )
    handles = []
    for activation in found.values():
        b = activation.weight_denominator
        with torch.no_grad():
            b.mul_(_even(b))
        handles += _keep_odd_at_zero(b)
    return handles


def _keep_odd_at_zero(b: nn.Parameter) -> list[RemovableHandle]:
    """Clear the gradients of b_1, b_3, ...; of a frozen parameter too, which may train later."""
    trains = b.requires_grad
    b.requires_grad_(True)
    handles = [
        b.register_hook(lambda grad: grad * _even(grad)),
        # FSDP2 writes gradients that no hook of autograd sees.
        b.register_post_accumulate_grad_hook(_clear_odd),
    ]
    b.requires_grad_(trains)
    return handles


def _clear_odd(b: Tensor) -> None:
    if b.grad is not None:
        with torch.no_grad():
            b.grad.mul_(_even(b.grad))


def _even(like: Tensor) -> Tensor:
    """1 at b_2, b_4, ..., 0 at b_1, b_3, ...; like the coefficients (1 or G, n), sharded or not."""
    places = torch.ones_like(like).cumsum(1)
    return (places % 2 == 0).to(like.dtype)
