"""Kanify: from the search for MLPs to the plan."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from kat.errors import InputError
from kat.models.kanify.calibrate import Run, run_batch, seen_inputs
from kat.models.kanify.find import Found, Mlp, find
from kat.models.kanify.fit import Fitted, check_fitter, fit_on_interval, fit_to_inputs
from kat.models.kanify.plan import Plan
from kat.models.kanify.replacement import Replacement, check_replaceable, device_and_dtype
from kat.models.kanify.select import Only, chosen, groups
from kat.nn import Share, rationals
from kat.nn.coefficients import KANIFY_INTERVAL
from kat.ops import Form

_LARGE_ERROR = 0.01


def kanify(
    model: nn.Module,
    only: Only | None = None,
    *,
    num_groups: int | None = None,
    degree: tuple[int, int] = (5, 4),
    form: Form = "A",
    share: Share = "numerator",
    interval: tuple[float, float] = KANIFY_INTERVAL,
    calibration: Iterable[Any] | None = None,
    run: Run = run_batch,
    measure: Any = None,
    dry_run: bool = False,
) -> Plan:
    """Replaces W_2 f(W_1 x + b_1) + b_2 by W_2 F_2(W_1 F_1(x) + b_1) + b_2, in place.

    F_1 and F_2 are rationals with learnable coefficients. F_1 starts as the identity, exactly, and
    F_2 as a fit to f, so that the model computes the same function up to the error of the fit. W
    and b are the same parameters under the same names.

    MLPs are found by what the model's code does: a linear map (``nn.Linear``, or transformers'
    ``Conv1D``), an element-wise activation that is a module or a function held as an attribute, at
    most dropout and a norm, a linear map. The coefficients have the device and dtype of the
    weights, and the names ``<linear map>.act1.*`` and ``<activation>.*``. They are trainable, even
    if the weights are not.

    Args:
        model: is changed, unless ``dry_run`` or an error is raised.
        only: the MLPs to replace, by default all: an index in the order in which they are found, or
            a glob that matches the full name of the activation or of a module around it
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"*.mlp"``), or several of these.
        num_groups: groups of both rationals, a divisor of both widths; by default the largest
            divisor of each width up to 8.
        degree, form, share: see :class:`kat.GroupRational`.
        interval: where F_2 approximates f. The fits of degree (5, 4) on [-6, 6] are stored; others
            need the extra ``[fit]``.
        calibration: batches to run the model on. Each F_2 is then fitted by least squares to the
            inputs of its activation, weighted by their effect on the output of the MLP, and only
            loosely to the interval. This needs the extra ``[fit]``.
        run: how to run a batch, by default ``model(**batch)`` for a mapping, ``model(*batch)`` for
            a tuple or list, and ``model(batch)`` for anything else.
        measure: a batch. The plan then shows how much each MLP by itself and all together change
            the model's output on it; the model runs once for each MLP, and twice more.
        dry_run: only make the plan.

    Returns:
        The plan: ``print`` shows it, ``undo()`` reverts it, ``save()`` writes the input of
        :func:`kat.models.kanify.kanify_like`.

    Warns:
        UserWarning: the error of a fit is above 1 % of the activation, as that of ReLU is, whose
            kink no rational of degree (5, 4) follows.

    Raises:
        InputError: an argument of the wrong kind, nothing to replace, a selection that matches
            nothing, an unsupported activation, groups that do not divide a width, calibration that
            does not reach an MLP.
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
    if calibration is not None:
        check_fitter()
    found = find(model)
    if not found.mlps:
        raise _nothing_found(model, found)
    mlps = chosen(found, only)
    for mlp in mlps:
        check_replaceable(model, mlp)
    split = [groups(mlp, num_groups) for mlp in mlps]
    dtypes = [device_and_dtype(model, mlp)["dtype"] for mlp in mlps]
    fits = [
        fit_on_interval(str(mlp.function), degree, form, interval, dtype)
        for mlp, dtype in zip(mlps, dtypes, strict=True)
    ]
    # Calibration runs the model; everything that can fail without it has been checked before.
    if calibration is not None:
        seen = seen_inputs(model, mlps, calibration, run, interval)
        fits = [
            fit_to_inputs(str(mlp.function), fitted, seen[mlp.activation], dtype)
            for mlp, fitted, dtype in zip(mlps, fits, dtypes, strict=True)
        ]
    plan = Plan(model, _replacements(model, mlps, fits, split, share), found.skipped)
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
            " model's output changes. measure=BATCH measures it; calibration=BATCHES, a narrower"
            " interval= or a higher degree= reduce it",
            stacklevel=3,
        )


def _check_arguments(model: object, calibration: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    if calibration is not None and (
        isinstance(calibration, Mapping | str) or not isinstance(calibration, Iterable)
    ):
        raise InputError(
            f"calibration must be an iterable of batches, got {type(calibration).__name__}; put a"
            " single batch in a list: [batch]"
        )


def _nothing_found(model: nn.Module, found: Found) -> InputError:
    done = bool(rationals(model))
    reasons = [f"{name}: {reason}" for name, reason in found.skipped.items()]
    return InputError(
        f"{type(model).__name__} has no MLP to replace, that is a linear map, an activation held"
        " by a module, and a linear map"
        + ("; it has rationals already" if done else "")
        + "".join(f"; {reason}" for reason in reasons[:3])
    )


def _replacements(
    model: nn.Module,
    mlps: list[Mlp],
    fits: list[Fitted],
    split: list[tuple[int, int]],
    share: Share,
) -> list[Replacement]:
    # A linear map may have several names, and needs one rational before it.
    preceded = {model.get_submodule(mlp.second) for mlp in mlps}
    replacements = []
    for mlp, fitted, (groups_in, groups_hidden) in zip(mlps, fits, split, strict=True):
        first = model.get_submodule(mlp.first)
        before = None if first in preceded else groups_in
        preceded.add(first)
        replacements.append(Replacement.make(model, mlp, fitted, (before, groups_hidden), share))
    return replacements
