"""Parameter groups for optimizers: the coefficients of rationals apart from other parameters.

The gradient of a coefficient c is a sum over all tokens and over all channels that share it, and F
moves by dF/da_i = x^i / Q and dF/db_j = F |x|^j / Q, which grow with the powers of x. Where a step
is proportional to the gradient, as in SGD, coefficients need a smaller learning rate than weights,

    k lr,   k = 1 / (100 S),   S = sum over all coefficients c of E[(dF/dc)^2], x ~ N(0, 1),

and a bound on their gradient, which a few large inputs can make thousands of times larger.
Optimizers that divide by the size of the gradient, such as Adam, need neither. docs/optimizers.md
has the measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.nn.quadrature import expectation
from kat.nn.rational import GroupRational, group_functions, rationals

_MARGIN = 100
"""How much smaller than 1 / S the factor is: with 1 / S most runs diverge."""


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    coefficient_lr: float | Literal["scaled"] | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer of torch or timm, with rational coefficients apart.

    Biases, norms, coefficients and what ``no_weight_decay()`` of a module names have no weight
    decay. Frozen parameters are in no group. The rates of the groups replace the ``lr`` that the
    optimizer is given.

    Args:
        model: any model; it may be compiled, wrapped in DDP or sharded by ``fully_shard``.
        lr: learning rate.
        coefficient_lr: learning rate of the coefficients. None: ``lr``, for optimizers that
            normalize the gradient (Adam, Lion, LAMB, ...). ``"scaled"``: ``k lr`` with a factor
            k for each rational (:func:`coefficient_lr_scale`), for SGD, together with
            :func:`clip_coefficient_gradients`.
        weight_decay: of the other parameters. None: what the optimizer is given, or its default.

    Returns:
        Dictionaries with ``params``, ``lr``, ``rational``, whether they are coefficients, and
        ``weight_decay``, unless the optimizer's holds. Those of coefficients also have
        ``use_muon=False``, which Muon of timm obeys.

    Raises:
        InputError: a rate or a weight decay below zero, another ``coefficient_lr``, something that
            is no module, or no parameter requires a gradient.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 64), kat.GRKANLinear(64, 2))
        >>> groups = kat.param_groups(model, lr=1e-3, weight_decay=0.05)
        >>> [(group["rational"], group["weight_decay"], len(group["params"])) for group in groups]
        [(False, 0.0, 2), (True, 0.0, 2), (False, 0.05, 2)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be an nn.Module, got {type(model).__name__}")
    _check_not_negative("lr", lr)
    if weight_decay is not None:
        _check_not_negative("weight_decay", weight_decay)
    if coefficient_lr is not None and not isinstance(coefficient_lr, str):
        _check_not_negative("coefficient_lr", coefficient_lr)
    if isinstance(coefficient_lr, str) and coefficient_lr != "scaled":
        raise InputError(
            f"coefficient_lr must be a learning rate, 'scaled' or None, got {coefficient_lr!r}"
        )
    scaled = coefficient_lr == "scaled"
    made = split_coefficients(model, decay_groups(model, weight_decay), scaled=scaled)
    if not made:
        raise InputError("no parameter of the model requires a gradient")
    own = lr if coefficient_lr is None or isinstance(coefficient_lr, str) else coefficient_lr
    for group in made:
        group["lr"] = (own if group["rational"] else lr) * group.pop("lr_scale")
    return made


def clip_coefficient_gradients(optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> None:
    """Before every step, scales the gradient of all coefficients to norm ``max_norm`` at most.

    Args:
        optimizer: an optimizer of the groups of :func:`param_groups`.
        max_norm: the largest L2 norm, over all coefficients together.

    Raises:
        InputError: the optimizer's groups do not say which are of coefficients, as those of
            ``model.parameters()``, or ``max_norm`` is not above zero.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.nn import clip_coefficient_gradients
        >>> model = kat.GRKANLinear(64, 2)
        >>> optimizer = torch.optim.SGD(kat.param_groups(model, lr=0.1), lr=0.1, momentum=0.9)
        >>> clip_coefficient_gradients(optimizer, max_norm=1.0)
    """
    if not max_norm > 0:
        raise InputError(f"max_norm must be above 0, got {max_norm!r}")
    if not any("rational" in group for group in optimizer.param_groups):
        raise InputError(
            "the optimizer's parameter groups do not say which are of coefficients: make them with"
            " kat.param_groups(model, lr)"
        )

    def clip(stepping: torch.optim.Optimizer, *_: Any) -> None:
        groups = [group for group in stepping.param_groups if group.get("rational")]
        coefficients = [parameter for group in groups for parameter in group["params"]]
        # a fused optimizer divides by the scale of torch.amp.GradScaler itself, after this
        scale: Any = getattr(stepping, "grad_scale", None)
        nn.utils.clip_grad_norm_(coefficients, max_norm * (1.0 if scale is None else scale.item()))

    optimizer.register_step_pre_hook(clip)


def coefficient_lr_scale(activation: GroupRational) -> float:
    """k = 1 / (100 S), S = sum over all coefficients c of E[(s_c dF/dc)^2] for x ~ N(0, 1).

    F is the initial function, so the factor of a resumed run is the same. s_c is 1, or where
    :func:`kat.adapt` trains D in a change D diag(s) of the coefficients, the entry of s.
    """
    initial = activation.initial_coefficients()
    m, n = activation.degree
    one = (1.0,) + m * (0.0,)
    numerators = torch.tensor([one, initial.numerator], dtype=torch.float64, device="cpu")
    denominator = torch.tensor([initial.denominator], dtype=torch.float64, device="cpu")
    powers = torch.arange(max(m, n) + 1, device="cpu")[:, None]
    scales = [_change_scale(activation, "numerator"), _change_scale(activation, "denominator")]
    scale = torch.cat(scales)[:, None]

    def squares(x: Tensor) -> Tensor:
        inverse_q, y = group_functions(x, numerators, denominator, activation.form)
        slopes = x**powers * inverse_q
        return (scale * torch.cat([slopes[: m + 1], y * slopes[1 : n + 1]])).square()

    with torch.no_grad():
        return 1 / (_MARGIN * expectation(squares).sum().item())


def _change_scale(activation: GroupRational, of: str) -> Tensor:
    """How far a unit step in what is trained moves the coefficient of each power, (k,)."""
    modules = dict(activation.named_modules())
    change = modules.get(f"parametrizations.weight_{of}.0")
    columns = getattr(activation, f"weight_{of}").shape[1]
    scale: Tensor = getattr(change, "scale", torch.ones(columns, device="cpu"))
    return scale.to("cpu", torch.float64)


def decay_groups(model: nn.Module, weight_decay: float | None) -> list[dict[str, Any]]:
    """The parameters that require a gradient, those without weight decay first.

    The others have no weight decay of their own if it is None.
    """
    spared = _spared(model)
    without: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            keeps = weight_decay == 0 or id(parameter) in spared
            (without if keeps else decayed).append(parameter)
    own = {} if weight_decay is None else {"weight_decay": weight_decay}
    made: list[dict[str, Any]] = [
        {"params": without, "weight_decay": 0.0}, {"params": decayed, **own}
    ]  # fmt: skip
    return [group for group in made if group["params"]]


def split_coefficients(
    model: nn.Module, groups: Iterable[Mapping[str, Any]], *, scaled: bool
) -> list[dict[str, Any]]:
    """Splits each group into other parameters and rational coefficients.

    Args:
        model: the model of the parameters.
        groups: parameter groups, which may have an ``lr_scale``.
        scaled: whether ``lr_scale`` of coefficients contains :func:`coefficient_lr_scale`.

    Returns:
        The groups with ``lr_scale`` and ``rational``; those of coefficients with ``use_muon``, and
        if scaled one for each function.
    """
    scales = {
        id(parameter): coefficient_lr_scale(module) if scaled else 1.0
        for module in rationals(model).values()
        for parameter in module.parameters()
    }
    split = []
    for group in groups:
        parts: dict[float | None, list[nn.Parameter]] = {None: []}
        for parameter in group["params"]:
            parts.setdefault(scales.get(id(parameter)), []).append(parameter)
        for scale, params in parts.items():
            own = {} if scale is None else {"use_muon": False}
            factor = group.get("lr_scale", 1.0) * (1.0 if scale is None else scale)
            marks = {"params": params, "lr_scale": factor, "rational": scale is not None}
            if params:
                split.append({**group, **marks, **own})
    return split


def _check_not_negative(name: str, value: float) -> None:
    """Raises InputError; torch checks the default of its optimizers, not what groups have."""
    if not isinstance(value, Real | Tensor) or not value >= 0:
        raise InputError(f"{name} must be a number of at least 0, got {value!r}")


def _spared(model: nn.Module) -> set[int]:
    """The ids of the parameters without weight decay."""
    spared = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.endswith(".bias")
    }
    spared |= {id(p) for module in rationals(model).values() for p in module.parameters()}
    for module in model.modules():
        given: Any = getattr(module, "no_weight_decay", ())
        names: Collection[str] = given() if callable(given) else given
        for name, parameter in module.named_parameters() if names else ():
            if any(fnmatchcase(name, pattern) for pattern in names):
                spared.add(id(parameter))
    return spared
