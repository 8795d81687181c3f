"""Weight initialization: schemes for GR-KAN layers, and the mimetic one for attention.

For y = W F(x) + bias with x ~ N(0, 1) and independent weights of variance v,
Var[y] = d_in v E[F(x)^2], so v = alpha / d_in with alpha = 1 / E[F(x)^2] keeps the second moment
(arXiv 2409.10594, section 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kat.errors import InputError, check_choice
from kat.nn.quadrature import Function, gain, moments
from kat.nn.rational import GroupRational
from kat.nn.sharded import sharded_like
from kat.ops.arguments import compute_dtype
from kat.ops.torch_internals import has_values, keep_from_transformers, own_parameters

Scheme = Literal["variance_preserving", "centered", "kaiming", "trunc_normal"]
"""The scheme by which :func:`init_grkan_` draws weights."""
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def init_grkan_(linear: nn.Linear, activation: nn.Module, scheme: Scheme) -> None:
    """Draw the weight of ``linear`` in ``linear(activation(x))`` and set its bias to zero.

    Parameters without values, on the meta device or of ``FakeTensorMode``, are not changed.

    Args:
        linear: the linear map after the activation.
        activation: a rational, whose current coefficients give the gain, or a fixed function such
            as ``nn.GELU``.
        scheme: ``"variance_preserving"``: N(0, alpha / d_in) with the activation's gain alpha, as
            in the paper;
            ``"centered"``: N(0, 1 / sum_c Var F_c(x)), projected so that W E[F(x)] = 0. The mean of
            F, which all tokens share, is not passed on. This keeps the second moment through deep
            stacks, where the paper's scheme drifts (docs/first-principles.md);
            ``"kaiming"``: N(0, 2 / d_in), the gain of ReLU, for any activation;
            ``"trunc_normal"``: N(0, 0.02^2) truncated at +-2, the released code's initialization.

    Raises:
        ValueError: an unknown scheme.
        InputError: the activation is zero everywhere, constant if ``"centered"``, or not finite.

    Examples:
        >>> import torch
        >>> from kat.nn import init_grkan_
        >>> linear = torch.nn.Linear(10_000, 4)
        >>> init_grkan_(linear, torch.nn.ReLU(), "variance_preserving")  # alpha = 2
        >>> f"{linear.weight.var() * 10_000:.1f}"
        '2.0'
    """
    check_choice("weight_init or scheme", scheme, SCHEMES)
    _draw({"weight": linear.weight, "bias": linear.bias}, activation, scheme)


def init_own_(linear: nn.Linear, activation: nn.Module, scheme: Scheme) -> None:
    """:func:`init_grkan_`, which other code then repeats where it would draw the weights its way.

    That is code that resets all modules of a model, as after ``to_empty``, and
    ``init_weights()`` of Hugging Face.
    """
    init_grkan_(linear, activation, scheme)
    own = own_parameters(linear)
    if own is not None:
        vars(linear)["reset_parameters"] = partial(_draw, own, activation, scheme)
    if has_values(linear.weight):
        keep_from_transformers(linear)


@torch.no_grad()
def _draw(parameters: Mapping[str, Tensor | None], activation: nn.Module, scheme: Scheme) -> None:
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if weight is None or not has_values(weight):
        return
    if scheme == "variance_preserving":
        alpha = gain(_function(activation))
        nn.init.normal_(weight, std=math.sqrt(alpha / weight.shape[1]))
    elif scheme == "centered":
        _draw_centered(weight, _function(activation))
    elif scheme == "kaiming":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    else:
        nn.init.trunc_normal_(weight, std=0.02, a=-2.0, b=2.0)
    if bias is not None:
        nn.init.zeros_(bias)


def _function(activation: nn.Module) -> Function:
    """Return the function of a point: one value, or one for each group of a rational."""
    return activation.functions if isinstance(activation, GroupRational) else activation


def _draw_centered(weight: Tensor, function: Function) -> None:
    """Draw W with W m = 0, m_c = E[F_c(x)]: E[(W F)^2] = v sum_c (E[F_c^2] - m_c^2)."""
    mean, variance = (
        moment.reshape(-1).repeat_interleave(weight.shape[1] // moment.numel())
        for moment in moments(function)
    )
    total = variance.sum().item()
    if total <= 0:
        raise InputError("weight_init='centered' needs an activation that is not constant")
    nn.init.normal_(weight, std=total**-0.5)
    if mean.any():
        direction = (mean / mean.norm())[:, None].to(weight.dtype)
        direction = sharded_like(direction, weight, replicate=True)
        # A column, since DTensor of torch 2.10 has no product of a matrix and a vector.
        weight.sub_(weight @ direction * direction.T)


@torch.no_grad()
def init_attention_mimetic_(qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
    """Initialize attention so that its weight products resemble trained transformers.

    For each head, W_q^T W_k is the best rank d_head approximation of 0.7 Z + 0.7 I, and
    W_proj W_v = 0.4 Z - 0.4 I. Z has independent entries of variance 1 / d; the W are the weights
    of ``nn.Linear`` (y = W x). Both factors get the square roots of the singular values. The
    constants are from the official KAT recipe; its code multiplies the second pair in the
    other order, which does not give the intended product.

    Args:
        qkv: (3 d, d), queries, keys and values stacked, heads in order.
        proj: (d, d), the output projection.
        num_heads: number of heads, a divisor of d.

    Raises:
        InputError: the weights have other shapes, or num_heads does not divide d.

    Source: Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, ICML 2023,
    arXiv 2305.09828.

    Examples:
        >>> import torch
        >>> from kat.nn import init_attention_mimetic_
        >>> qkv, proj = torch.nn.Linear(64, 192), torch.nn.Linear(64, 64)
        >>> init_attention_mimetic_(qkv, proj, num_heads=4)
        >>> bool((proj.weight @ qkv.weight[128:]).diagonal().mean() < 0)  # W_proj W_v, about -0.4 I
        True
    """
    dim = proj.in_features
    shapes = (*qkv.weight.shape, *proj.weight.shape)
    if shapes != (3 * dim, dim, dim, dim) or dim % num_heads:
        raise InputError(
            f"mimetic weights are of qkv (3 d, d) and proj (d, d), and num_heads divides d; got"
            f" {tuple(qkv.weight.shape)}, {tuple(proj.weight.shape)} and {num_heads} heads"
        )
    rank = dim // num_heads
    options: Any = {"device": qkv.weight.device, "dtype": compute_dtype(qkv.weight.dtype)}
    query, key, value = products = torch.empty(3, dim, dim, **options)
    for head in range(num_heads):
        rows = slice(head * rank, (head + 1) * rank)
        left, right = _split(_noisy_identity(qkv.weight, dim, noise=0.7, identity=0.7))
        query[rows] = left[:, :rank].T
        key[rows] = right[:rank]
    left, right = _split(_noisy_identity(qkv.weight, dim, noise=0.4, identity=-0.4))
    value.copy_(right)
    qkv.weight.copy_(sharded_like(products.flatten(0, 1), qkv.weight))
    proj.weight.copy_(sharded_like(left, proj.weight))
    for linear in (qkv, proj):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def _noisy_identity(like: Tensor, dim: int, *, noise: float, identity: float) -> Tensor:
    """noise * Z + identity * I, in float32 at least, Z uniform with variance 1 / dim."""
    bound = math.sqrt(3 / dim)
    options: Any = {"device": like.device, "dtype": compute_dtype(like.dtype)}
    z = torch.empty(dim, dim, **options).uniform_(-bound, bound)
    return noise * z + identity * torch.eye(dim, **options)


def _split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """L and R with L R = matrix, each with the square roots of the singular values."""
    u, s, vh = torch.linalg.svd(matrix)
    root = s.sqrt()
    return u * root, root[:, None] * vh
