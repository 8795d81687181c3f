"""Kanify: from the search for MLPs to the plan."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from kat.errors import InputError
from kat.models.kanify.activation import Activation
from kat.models.kanify.calibrate import Run, SeenInputs, run_batch, seen_inputs
from kat.models.kanify.config import KanifyConfig, divisor
from kat.models.kanify.finders.find import Found, find
from kat.models.kanify.finders.mlp import Mlp
from kat.models.kanify.fit import Fitted, check_fitter, fit_on_interval, fit_to_inputs
from kat.models.kanify.places import device_and_dtype
from kat.models.kanify.plan import Plan
from kat.models.kanify.replacement import Replacement
from kat.models.kanify.wrapped import check_unwrapped, check_whole
from kat.models.selection import Parts, Selection, Selector
from kat.nn import rationals
from kat.text import listing

_LARGE_ERROR = 0.01


def kanify(
    model: nn.Module,
    only: Selection | None = None,
    *,
    exclude: Selection | None = None,
    config: KanifyConfig | Mapping[Selector, KanifyConfig] | None = None,
    calibration: Iterable[Any] | None = None,
    run: Run = run_batch,
    measure: Any = None,
    dry_run: bool = False,
) -> Plan:
    """Replaces W_2 f(W_1 x + b_1) + b_2 by W_2 F_2(W_1 F_1(x) + b_1) + b_2, in place, and in gated
    MLPs W_2 (f(W_1 x + b_1) * (V x + c)) + b_2 by W_2 (F_2(W_1 x + b_1) * (V x + c)) + b_2.

    F_1 and F_2 are rationals with learnable coefficients. F_1 starts as the identity, exactly, and
    F_2 as a fit to f, so that the model computes the same function up to the error of the fit. The
    linear maps are the same parameters under the same names.

    MLPs are found by what the model's code does. The linear maps are ``nn.Linear``, transformers'
    ``Conv1D``, PyTorch Geometric's ``Linear`` and 1x1 convolutions, or the experts of a mixture in
    one tensor; V may be in one map with W_1. f is a module, a function held as an attribute, or a
    function that the code calls, of any kind that treats every value by itself. What is passed over
    is in the plan with the reason.

    The coefficients have the device and dtype of the weights, and the names
    ``<linear map>.act1.*`` and ``<activation>.*``; a called function becomes ``<module>.act``. They
    are trainable, even if the weights are not.

    Args:
        model: is changed, unless ``dry_run`` or an error is raised.
        only: the MLPs to replace: an index in the order in which they are found; a name or a glob
            that matches the name of the activation or of a module around it, or the end of one
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"mlp"``); a regular expression, as
            ``re.compile`` makes it, that matches such a name as a whole; a function of the
            innermost module with all of the MLP and of that module's name; or several of these. By
            default all but heads: those that change the width outside of the numbered blocks which
            have the others, as BERT's prediction head does.
        exclude: MLPs that are left as they are, selected in the same ways.
        config: the settings of the rationals; or a mapping from selectors to settings, of which the
            first that matches applies, and the default settings where none does.
        calibration: batches to run the model on. Each F_2 is then fitted by least squares to the
            inputs of its activation, weighted by their effect on the output of the MLP, and only
            loosely to the interval; one that no batch reaches, to the interval. This needs the
            extra ``[fit]``.
        run: how to run a batch, by default ``model(**batch)`` for a mapping, ``model(*batch)`` for
            a tuple or list, and ``model(batch)`` for anything else.
        measure: a batch. The plan then shows how much the outputs of each MLP and of the model move
            on it; the model runs twice more.
        dry_run: only make the plan.

    Returns:
        The plan: ``print`` shows it, ``undo()`` reverts it, ``save()`` writes the input of
        :func:`kat.models.kanify.kanify_like`.

    Warns:
        UserWarning: the error of a fit is above 1 % of the activation, as that of ReLU is, whose
            kink no rational of degree (5, 4) follows.

    Raises:
        InputError: an argument of the wrong kind, nothing to replace, a selection that matches
            nothing, groups that do not divide a width, calibration that reaches no MLP, a model
            that is already wrapped by DDP or FSDP, or whose weights are cut by tensor parallelism.
        MissingPackage: a fit is needed, and NumPy or SciPy is missing.
        ValueError: an unknown degree, form or share.

    Source: arXiv 2409.10594, sections 4.3 to 4.5.

    Examples:
        >>> import torch
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> x = torch.randn(100, 16)
        >>> before = model(x)
        >>> plan = kat.kanify(model)
        >>> print(plan)
        MLP  widths   function  groups  parameters  error    RMS      on
        1    16-64-4  gelu      8, 8    76          3.1e-03  2.2e-03  [-6, 6]
        MLPs: 1, parameters added: 76, in place
        >>> bool((model(x) - before).abs().max() < 0.01)
        True
    """
    _check_arguments(model, calibration)
    check_unwrapped(model)
    if calibration is not None:
        check_fitter()
    found = find(model)
    mlps = _chosen(model, found, only, exclude)
    for mlp in mlps:
        check_whole(model, mlp)
    configs = _configs(model, mlps, config)
    split = [_groups(mlp, configs[mlp.activation]) for mlp in mlps]
    fits = _Fits(model, found.functions, configs)
    fitted = {mlp.activation: fits.on_interval(mlp) for mlp in mlps}
    # Calibration runs the model; everything that can fail without it has been checked before.
    if calibration is not None:
        low, high = zip(*(configs[mlp.activation].interval for mlp in mlps), strict=True)
        seen = seen_inputs(model, mlps, calibration, run, (min(low), max(high)))
        fitted |= {
            mlp.activation: fits.to_inputs(mlp, fitted[mlp.activation], seen[mlp.activation])
            for mlp in mlps
            if mlp.activation in seen
        }
    plan = Plan(
        model, _replacements(model, mlps, fitted, split, configs), _passed_over(found, mlps)
    )
    _warn_of_large_errors(plan)
    if measure is not None:
        plan.measure(measure, run)
    if not dry_run:
        plan.apply()
    return plan


def _warn_of_large_errors(plan: Plan) -> None:
    large = [r for r in plan.replacements if r.fitted.relative_error > _LARGE_ERROR]
    if large:
        worst = max(large, key=lambda r: r.fitted.relative_error)
        warnings.warn(
            f"kanify: the fit to {worst.mlp.function} in {worst.mlp.activation} is off by"
            f" {100 * worst.fitted.relative_error:.2g} % of its size, and {len(large)} of"
            f" {len(plan.replacements)} fits by more than {100 * _LARGE_ERROR:.0f} %, so the"
            " model's output changes. measure=BATCH measures it; calibration=BATCHES reduces it, as"
            " do a narrower interval and a higher degree in config=kat.KanifyConfig(...)",
            stacklevel=3,
        )


def _check_arguments(model: object, calibration: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    if calibration is not None and (
        isinstance(calibration, Mapping | str | torch.Tensor)
        or not isinstance(calibration, Iterable)
    ):
        raise InputError(
            f"calibration must be an iterable of batches, got {type(calibration).__name__}; put a"
            " single batch in a list: [batch]"
        )


def _chosen(
    model: nn.Module, found: Found, only: Selection | None, exclude: Selection | None
) -> list[Mlp]:
    """The MLPs that are selected; by default all but heads."""
    if not found.mlps:
        raise _nothing_found(model, found)
    parts = Parts(model, {m.activation: m.holder for m in found.mlps}, "MLP", found.skipped)
    names = parts.selected(only, exclude)
    if only is None:
        names = [name for name in names if name not in found.heads]
    if not names:
        raise InputError(f"exclude={exclude!r} leaves no MLP but {listing(found.heads)}")
    return [mlp for mlp in found.mlps if mlp.activation in names]


def _nothing_found(model: nn.Module, found: Found) -> InputError:
    done = bool(rationals(model))
    reasons = [f"{name}: {reason}" for name, reason in found.skipped.items()]
    return InputError(
        f"{type(model).__name__} has no MLP to replace, that is a linear map, an activation, and a"
        " linear map"
        + ("; it has rationals already" if done else "")
        + "".join(f"; {reason}" for reason in reasons[:3])
    )


def _passed_over(found: Found, mlps: list[Mlp]) -> dict[str, str]:
    """The activations that are in no MLP, and heads that are not selected, with the reasons."""
    taken = {mlp.activation for mlp in mlps}
    head = "it is no MLP of a block, but changes the width outside, as a head; only= can name it"
    return found.skipped | {name: head for name in found.heads if name not in taken}


def _configs(
    model: nn.Module,
    mlps: list[Mlp],
    config: KanifyConfig | Mapping[Selector, KanifyConfig] | None,
) -> dict[str, KanifyConfig]:
    """The settings of each MLP, by the name of its activation."""
    given = {} if config is None else config
    settings: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else {"*": given}
    for value in settings.values():
        if not isinstance(value, KanifyConfig):
            raise InputError(
                f"config must be a KanifyConfig or a mapping from selectors to these, got {value!r}"
            )
    parts = Parts(model, {mlp.activation: mlp.holder for mlp in mlps}, "MLP")
    return parts.assigned(settings, KanifyConfig())


def _groups(mlp: Mlp, config: KanifyConfig) -> tuple[int | None, int]:
    """The numbers of groups of F_1, if there is one, and of F_2."""
    d_in, d_hidden, _ = mlp.widths
    has_first = config.first and mlp.gate is None and mlp.first != mlp.second
    before = divisor(mlp, d_in, config.groups) if has_first else None
    return before, divisor(mlp, d_hidden, config.groups)


class _Fits:
    """Fits to the functions of MLPs; on an interval, one for all MLPs with the same."""

    def __init__(
        self, model: nn.Module, functions: dict[str, Activation], configs: dict[str, KanifyConfig]
    ) -> None:
        self.model = model
        self.functions = functions
        self.configs = configs
        self.made: dict[tuple[Activation, KanifyConfig, torch.dtype], Fitted] = {}

    def on_interval(self, mlp: Mlp) -> Fitted:
        function, config = self.functions[mlp.activation], self.configs[mlp.activation]
        key = function, config, device_and_dtype(self.model, mlp)["dtype"]
        if key not in self.made:
            self.made[key] = fit_on_interval(*key)
        return self.made[key]

    def to_inputs(self, mlp: Mlp, start: Fitted, seen: SeenInputs) -> Fitted:
        dtype = device_and_dtype(self.model, mlp)["dtype"]
        return fit_to_inputs(self.functions[mlp.activation], start, seen, dtype)


def _replacements(
    model: nn.Module,
    mlps: list[Mlp],
    fitted: dict[str, Fitted],
    split: list[tuple[int | None, int]],
    configs: dict[str, KanifyConfig],
) -> list[Replacement]:
    # A linear map may have several names, and needs one rational before it.
    preceded = {model.get_submodule(mlp.second) for mlp in mlps}
    replacements = []
    for mlp, (groups_in, groups_hidden) in zip(mlps, split, strict=True):
        first = model.get_submodule(mlp.first)
        before = None if first in preceded else groups_in
        preceded.add(first)
        name = mlp.activation
        share = configs[name].share
        replacements.append(
            Replacement.make(model, mlp, fitted[name], (before, groups_hidden), (share, share))
        )
    return replacements
