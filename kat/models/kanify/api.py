"""Kanify: GR-KAN MLPs in place of a model's MLPs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kat.errors import InputError
from kat.models.kanify.activation import unsupported
from kat.models.kanify.calibrate import Run, run_batch, seen_inputs
from kat.models.kanify.find import Found, Mlp, find, function_of
from kat.models.kanify.fit import Fitted, fit_on_interval, fit_to_inputs
from kat.models.kanify.plan import VERSION, Plan, Replacement, activation_of, place_of
from kat.models.kanify.select import Only, chosen, divisor, groups
from kat.models.kanify.trace import linear_widths
from kat.nn import Coefficients, GroupRational


def kanify(
    model: nn.Module,
    only: Only | None = None,
    *,
    num_groups: int | None = None,
    degree: tuple[int, int] = (5, 4),
    form: str = "A",
    share: str = "numerator",
    interval: tuple[float, float] = (-6.0, 6.0),
    calibration: Iterable[Any] | None = None,
    run: Run = run_batch,
    dry_run: bool = False,
) -> Plan:
    """W_2 f(W_1 x + b_1) + b_2 becomes W_2 F_2(W_1 F_1(x) + b_1) + b_2, in place.

    F_1 and F_2 are rationals with learnable coefficients; F_1 starts as the identity, exactly, and
    F_2 as a fit to f, so that the model computes what it did, to the fit's error. W and b are the
    same parameters under the same names.

    MLPs are found by what the model's code does: a linear map (``nn.Linear``, or transformers'
    ``Conv1D``), an element-wise activation that is a module or a function held as an attribute, at
    most dropout and a norm, a linear map. The coefficients have the weights' device and dtype, and
    the names ``<linear map>.act1.*`` and ``<activation>.*``. They are trainable, also where the
    weights are not.

    Args:
        model: is changed, unless ``dry_run``; not at all where an error is raised.
        only: the MLPs to replace, all by default: an index in the order in which they are found, or
            a glob that matches the full name of the activation or of a module around it
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"*.mlp"``), or several of these.
        num_groups: groups of both rationals, a divisor of both widths; by default the largest
            divisor up to 8, of each.
        degree, form, share: see :class:`kat.GroupRational`.
        interval: where F_2 is to be close to f.
        calibration: batches to run the model on. Each F_2 is then fitted by least squares to the
            inputs that its activation has had, weighted by their effect on the MLP's output, and
            is held to the interval only loosely.
        run: how a batch is run, by default ``model(**batch)`` for a mapping, ``model(*batch)`` for
            a tuple or list, and ``model(batch)`` for anything else.
        dry_run: plan only.

    Returns:
        The plan: ``print`` shows it, ``undo()`` takes it back, ``save()`` writes what
        :func:`kat.models.kanify.kanify_like` reads.

    Raises:
        InputError: an argument of the wrong kind, nothing to replace, a selection that matches
            nothing, an unsupported activation, groups that do not divide a width, calibration that
            does not reach an MLP.
        ValueError: an unknown degree, form or share.

    Source: arXiv 2409.10594, sections 4.3 to 4.5.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    if calibration is not None and (
        isinstance(calibration, Mapping | str) or not isinstance(calibration, Iterable)
    ):
        raise InputError(
            f"calibration must be an iterable of batches, got {type(calibration).__name__}; put a"
            " single batch in a list: [batch]"
        )
    found = find(model)
    if not found.mlps:
        raise _nothing(model, found)
    mlps = chosen(found, only)
    for mlp in mlps:
        _check(model, mlp)
    split = [groups(mlp, num_groups) for mlp in mlps]
    dtypes = [place_of(model, mlp)["dtype"] for mlp in mlps]
    fits = [
        fit_on_interval(str(mlp.function), degree, form, interval, dtype)
        for mlp, dtype in zip(mlps, dtypes, strict=True)
    ]
    # Calibration runs the model, so all that can be wrong without it has been looked at before.
    if calibration is not None:
        seen = seen_inputs(model, mlps, calibration, run, interval)
        fits = [
            fit_to_inputs(str(mlp.function), fitted, seen[mlp.activation], dtype)
            for mlp, fitted, dtype in zip(mlps, fits, dtypes, strict=True)
        ]
    # A linear map may have several names; one rational before it is enough.
    preceded = {model.get_submodule(mlp.second) for mlp in mlps}
    replacements = []
    for mlp, fitted, (groups_in, groups_hidden) in zip(mlps, fits, split, strict=True):
        first = model.get_submodule(mlp.first)
        before = None if first in preceded else groups_in
        preceded.add(first)
        replacements.append(_replacement(model, mlp, fitted, (before, groups_hidden), share))
    plan = Plan(model, replacements, found.passed_over)
    if not dry_run:
        plan.apply()
    return plan


def kanify_like(model: nn.Module, record: Mapping[str, Any] | str | Path) -> Plan:
    """Kanifies a model in the way of another one of the same structure, ready for its state dict.

    Nothing is searched or fitted.

    Args:
        model: is changed in place.
        record: of :meth:`Plan.record`, or the file that :meth:`Plan.save` has written.

    Raises:
        InputError: the record is none, or does not fit the model, which is then unchanged.
    """
    content = _read(Path(record)) if isinstance(record, str | Path) else record
    try:
        if content["kanify"] != VERSION:
            raise InputError(
                f"the record has version {content['kanify']!r}, and only {VERSION} can be read here"
            )
        replacements = [_recorded(model, entry) for entry in content["mlps"]]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a record of kanify: no valid entry {error}") from None
    _check_distinct(model, replacements)
    plan = Plan(model, replacements, {})
    plan.apply()
    return plan


def _nothing(model: nn.Module, found: Found) -> InputError:
    done = any(isinstance(module, GroupRational) for module in model.modules())
    reasons = [f"{name}: {reason}" for name, reason in found.passed_over.items()]
    return InputError(
        f"{type(model).__name__} has no MLP to replace, that is a linear map, an activation held"
        " by a module, and a linear map"
        + ("; it has rationals already" if done else "")
        + "".join(f"; {reason}" for reason in reasons[:3])
    )


def _check(model: nn.Module, mlp: Mlp) -> None:
    if mlp.function is None:
        raise unsupported(mlp.activation, activation_of(model, mlp))
    if hasattr(model.get_submodule(mlp.first), "act1"):
        raise InputError(
            f"{mlp.first} has an attribute 'act1', the name for its rational, already; leave this"
            " MLP out with only="
        )


def _replacement(
    model: nn.Module, mlp: Mlp, fitted: Fitted, groups: tuple[int | None, int], share: str
) -> Replacement:
    """The rationals for one MLP; without the first where there are no groups for it."""
    c = fitted.coefficients
    settings = {"degree": c.degree, "form": c.form, "share": share, **place_of(model, mlp)}
    act1 = GroupRational(groups[0], init="identity", **settings) if groups[0] else None
    return Replacement(mlp, act1, GroupRational(groups[1], init=c, **settings), fitted)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the record {str(path)!r} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def _recorded(model: nn.Module, entry: Mapping[str, Any]) -> Replacement:
    """One MLP of a record, checked against the model."""
    d_in, d_hidden, d_out = entry["mlp"]["widths"]
    mlp = Mlp(**{**entry["mlp"], "widths": (d_in, d_hidden, d_out)})
    try:
        before, after = (linear_widths(model.get_submodule(n)) for n in (mlp.first, mlp.second))
        activation = activation_of(model, mlp)
    except AttributeError:
        raise InputError(f"the record is of another model: no MLP at {mlp.activation}") from None
    if (before, after) != ((d_in, d_hidden), (d_hidden, d_out)):
        raise InputError(
            f"the record is of another model: the linear maps of {mlp.activation} have the widths"
            f" {before} and {after} here, not {d_in, d_hidden} and {d_hidden, d_out}"
        )
    if isinstance(activation, GroupRational):
        raise InputError(f"{mlp.activation} is a rational already")
    if function_of(activation) != mlp.function:
        kind = getattr(activation, "__name__", type(activation).__name__)
        raise InputError(
            f"the record is of another model: {mlp.activation} is {kind} here, not {mlp.function}"
        )
    _check(model, mlp)
    before_groups, after_groups = entry["groups"]
    for count, width in ((before_groups, d_in), (after_groups, d_hidden)):
        if count is not None:
            divisor(mlp, width, count)
    coefficients = Coefficients.from_dict(entry["coefficients"], "the record")
    errors = float(entry["max_error"]), float(entry["rms_error"])
    fitted = Fitted(coefficients, *errors, bool(entry["seen"]))
    return _replacement(model, mlp, fitted, (before_groups, int(after_groups)), entry["share"])


def _check_distinct(model: nn.Module, replacements: list[Replacement]) -> None:
    """Raises InputError where a record is empty, or puts two rationals in one place."""
    linear_maps = [model.get_submodule(r.mlp.first) for r in replacements if r.act1 is not None]
    for places in ([r.mlp.activation for r in replacements], linear_maps):
        if len(set(places)) < len(places):
            raise InputError("not a record of kanify: it names an MLP twice")
    if not replacements:
        raise InputError("not a record of kanify: it names no MLP")
