"""Parameter groups for optimizers: the coefficients of rationals apart from other parameters.

A step in a coefficient c moves F by dF/da_i = x^i / Q or dF/db_j = -F |x|^j / Q. The largest slope

    s_c = max(1, max |dF/dc|),   x in [-6, 6],

grows from 1 to 7,776 with the power of x. Optimizers that divide by the size of the gradient, such
as Adam, need nothing else. A step of SGD or ASGD is proportional to the gradient g, which is
largest where the step must be smallest. So are the first five steps of RAdam. Before each step of
these optimizers

    g_c becomes  (g_c / s_c^2) min(1, R / |g / s|),   R = 0.01 (1 - momentum) / peak lr,

with the norm over all coefficients. Every power then moves F alike, and the coefficients of a power
move it by 0.01 at most in one step. docs/own-model.md has runs with it and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kat.errors import InputError
from kat.nn.optimizer_warning import warn_of_common_rules
from kat.nn.rational import GroupRational, largest_slopes, rationals
from kat.nn.sharded import is_sharded

SLOPES = "kat_slopes"
"""The attribute of a coefficient parameter that holds s."""
_LARGEST_STEP = 0.01
"""The most that a raw step may move F for x in [-6, 6]."""
_STEPPED: WeakSet[torch.optim.Optimizer] = WeakSet()
"""The optimizers that have made a step."""


class Split(NamedTuple):
    """The trainable parameters of a model as :func:`split_parameters` returns them."""

    matrices: list[nn.Parameter]
    coefficients: list[nn.Parameter]
    rest: list[nn.Parameter]


def split_parameters(model: nn.Module) -> Split:
    """Split the parameters of any model into matrices, rational coefficients and the rest.

    Use this when an optimizer is for matrices alone, such as Muon: coefficients have two dimensions
    too, but are no matrices. Matrices are the parameters of two dimensions whose name ends in
    ``weight``, except embeddings and the last one in the order of registration, which is the head
    in most models. Frozen parameters are left out.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = torch.nn.Sequential(kat.GRKANMlp(16, 64), torch.nn.Linear(16, 4))
        >>> matrices, coefficients, rest = kat.split_parameters(model)
        >>> [tuple(p.shape) for p in matrices], len(coefficients), [tuple(p.shape) for p in rest]
        ([(64, 16), (16, 64)], 4, [(64,), (16,), (4, 16), (4,)])
        >>> muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.05)
        >>> spared = {"params": coefficients, "weight_decay": 0.0}
        >>> adamw = torch.optim.AdamW([spared, {"params": rest}], lr=1e-3)
    """
    coefficients = _coefficients(model)
    apart: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            apart.update(module.parameters())
    matrices = []
    for name, p in model.named_parameters(remove_duplicate=False):  # a head may share a weight
        if p.ndim == 2 and name.endswith("weight") and p not in coefficients:
            matrices.append(p)
    apart.update(matrices[-1:])
    inner = set(matrices) - apart
    known = inner | coefficients
    trained = [p for p in model.parameters() if p.requires_grad]
    return Split(
        matrices=[p for p in trained if p in inner],
        coefficients=[p for p in trained if p in coefficients],
        rest=[p for p in trained if p not in known],
    )


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    coefficient_lr: float | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for optimizers of torch and timm, with rational coefficients apart.

    Use this when you train a model that has rationals in a loop of your own. Biases, norms,
    coefficients and what ``no_weight_decay()`` of a module names have no weight decay. Frozen
    parameters are in no group. The rates of the groups replace the ``lr`` that the optimizer is
    given.

    Before each step of SGD (any optimizer with ``dampening``, such as timm's SGDW, SGDP and LARS),
    ASGD, RAdam and rectified AdaBelief, the gradients of the coefficients are scaled and bounded in
    place, see the top of this module. A hook that ``import kat`` registers does so. It changes no
    other groups and no other optimizers.

    Two optimizers of torch take other calls. LBFGS has no groups:
    ``LBFGS(model.parameters(), line_search_fn="strong_wolfe")``; without a line search it can
    diverge. Muon takes matrices alone, see :func:`kat.split_parameters`.

    Args:
        model: any model; it may be compiled, wrapped in DDP or sharded by ``fully_shard``.
        lr: learning rate.
        coefficient_lr: learning rate of the coefficients; by default ``lr``.
        weight_decay: of the other parameters. None: what the optimizer is given, or its default.

    Raises:
        InputError: a rate is no number or negative, or the model is no module.

    Returns:
        Dictionaries with ``params``, ``lr``, ``rational``, True for coefficients, and
        ``weight_decay``, unless the optimizer's holds. Groups of coefficients also have
        ``use_muon=False``, which Muon of timm obeys.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 64), kat.GRKANLinear(64, 2))
        >>> groups = kat.param_groups(model, lr=1e-3, weight_decay=0.05)
        >>> [(group["rational"], group["weight_decay"], len(group["params"])) for group in groups]
        [(False, 0.0, 2), (True, 0.0, 2), (False, 0.05, 2)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    own = lr if coefficient_lr is None else coefficient_lr
    for name, rate in (("lr", lr), ("coefficient_lr", own)):
        if not isinstance(rate, Real | Tensor) or rate < 0:  # YAML reads 1e-3 as text
            raise InputError(f"{name} must be a number of at least 0, got {rate!r}")
    made = split_coefficients(model, decay_groups(model, weight_decay))
    for group in made:
        group["lr"] = own if group["rational"] else lr
    return made


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
    """Scale the coefficients' gradients where steps are raw: now, or after the closure."""
    if optimizer not in _STEPPED:
        _STEPPED.add(optimizer)
        warn_of_common_rules(optimizer)
    groups = [group for group in optimizer.param_groups if group.get("rational")]
    if not groups or not _has_raw_steps(optimizer):
        return None
    closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _scale_gradients(optimizer, groups)
        return None

    def scaled_closure() -> Any:
        loss = closure()
        _scale_gradients(optimizer, groups)
        return loss

    return (optimizer, scaled_closure), {}


def _has_raw_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Return True if steps are proportional to the gradient: SGD's, or the first ones of RAdam."""
    if "dampening" in optimizer.defaults or optimizer.defaults.get("rectify"):
        return True
    return type(optimizer).__name__ in ("ASGD", "RAdam", "RAdamLegacy")


register_optimizer_step_pre_hook(_before_step)


@torch.no_grad()
def _scale_gradients(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """g_c becomes (g_c / s_c^2) min(1, R / |g / s|); see the top of this module."""
    coefficients: list[nn.Parameter] = []
    rates = [optimizer.defaults["lr"]]
    for group in groups:
        coefficients += [p for p in group["params"] if p.grad is not None]
        # the peak: when the rate rises, the momentum still holds gradients of a lower rate
        rates += [group[name] for name in ("lr", "initial_lr", "max_lr") if name in group]
    rate = max(map(float, rates))
    if not coefficients:
        return
    share = _LARGEST_STEP * (1 - max(group.get("momentum", 0.0) for group in groups))
    bound = share / rate if rate > 0 else 0.0
    # a fused optimizer divides by the scale of torch.amp.GradScaler itself, after this
    scale: Any = getattr(optimizer, "grad_scale", None)
    _divide_by_slopes(coefficients)
    nn.utils.clip_grad_norm_(coefficients, bound * (1.0 if scale is None else scale.item()))
    _divide_by_slopes(coefficients)


def _divide_by_slopes(coefficients: list[nn.Parameter]) -> None:
    for parameter in coefficients:
        slopes: Tensor | None = getattr(parameter, SLOPES, None)
        if slopes is None:
            raise InputError(
                "the optimizer has a group of rational coefficients that were copied after"
                " kat.param_groups; make the groups of this model with kat.param_groups"
            )
        gradient: Any = parameter.grad
        local = gradient.to_local() if is_sharded(gradient) else gradient
        local.div_(slopes.to(local.device, local.dtype))


@torch.no_grad()
def _mark_slopes(activation: GroupRational) -> None:
    """Give each parameter of a rational its slopes s, as an attribute.

    F is the initial function, so a resumed run has the same. Parameters of adapters are already in
    the scale of each power.
    """
    initial = activation.initial_coefficients()
    numerator = torch.tensor([initial.numerator], device="cpu")
    denominator = torch.tensor([initial.denominator], device="cpu")
    rows: tuple[Tensor, ...] = ()
    if not parametrize.is_parametrized(activation):
        rows = largest_slopes(numerator, denominator, activation.form)
    one = torch.ones((), device="cpu")
    for parameter, row in zip_longest(activation.parameters(), rows, fillvalue=one):
        device = "cpu" if parameter.is_meta else parameter.device
        setattr(parameter, SLOPES, row.clamp(min=1).to(device, parameter.dtype))


def decay_groups(model: nn.Module, weight_decay: float | None) -> list[dict[str, Any]]:
    """Return the parameters that require a gradient, those without weight decay first.

    The others have no weight decay of their own if it is None.
    """
    spared = _spared(model)
    without: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            keeps = weight_decay == 0 or parameter in spared
            (without if keeps else decayed).append(parameter)
    own = {} if weight_decay is None else {"weight_decay": weight_decay}
    made: list[dict[str, Any]] = [
        {"params": without, "weight_decay": 0.0}, {"params": decayed, **own}
    ]  # fmt: skip
    return [group for group in made if group["params"]]


def split_coefficients(
    model: nn.Module, groups: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Split each group into other parameters and rational coefficients.

    Args:
        model: the model of the parameters.
        groups: parameter groups.

    Returns:
        The groups with ``rational``; groups of coefficients also have ``use_muon``.
    """
    for activation in rationals(model).values():
        _mark_slopes(activation)
    coefficients = _coefficients(model)
    split = []
    for group in groups:
        others = [p for p in group["params"] if p not in coefficients]
        own = [p for p in group["params"] if p in coefficients]
        if others:
            split.append({**group, "params": others, "rational": False})
        if own:
            split.append({**group, "params": own, "rational": True, "use_muon": False})
    return split


def _coefficients(model: nn.Module) -> set[nn.Parameter]:
    found: set[nn.Parameter] = set()
    for activation in rationals(model).values():
        found.update(activation.parameters())
    return found


def _spared(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters without weight decay."""
    spared = _coefficients(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1 or name.endswith(".bias"):
            spared.add(parameter)
    for module in model.modules():
        given: Any = getattr(module, "no_weight_decay", ())
        names: Collection[str] = given() if callable(given) else given
        for name, parameter in module.named_parameters() if names else ():
            if any(fnmatchcase(name, pattern) for pattern in names):
                spared.add(parameter)
    return spared
