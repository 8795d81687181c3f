"""Kanify: from the search for MLPs to the plan, and from the record of a plan."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kat.documents import read_json
from kat.errors import InputError
from kat.extras import needed_by
from kat.models.config_record import recorded, root_of
from kat.models.kanify.calibrate import Run, activation_of, run_batch, seen_inputs
from kat.models.kanify.find import Found, find
from kat.models.kanify.fit import (
    Fitted,
    KanifyConfig,
    activation_function,
    fit_on_interval,
    fit_to_inputs,
    kind_of,
)
from kat.models.kanify.plan import VERSION, Plan, Replacement, device_and_dtype
from kat.models.kanify.regenerate import codes_of
from kat.models.kanify.walk import Mlp, expert_widths, linear_map
from kat.models.selection import Selection, selected
from kat.nn import Coefficients, rationals

_LARGE_ERROR = 0.01


def kanify(
    model: nn.Module,
    only: Selection | None = None,
    *,
    exclude: Selection | None = None,
    config: KanifyConfig | None = None,
    calibration: Iterable[Any] | None = None,
    run: Run = run_batch,
    dry_run: bool = False,
) -> Plan:
    """Replace W_2 f(W_1 x + b_1) + b_2 by W_2 F(W_1 x + b_1) + b_2, in place, and in gated MLPs
    W_2 (f(W_1 x + b_1) * (V x + c)) + b_2 by W_2 (F(W_1 x + b_1) * (V x + c)) + b_2.

    Use this when you have a trained model of any library and want its activations to learn. F is a
    rational with learnable coefficients. It starts as a fit to f, so that the model computes the
    same function up to the error of the fit. The linear maps are the same modules under the same
    names.

    The function finds MLPs by tracing the model's code. The linear maps are ``nn.Linear``,
    transformers' ``Conv1D``, PyTorch Geometric's ``Linear`` and 1x1 convolutions, or the experts of
    a mixture in one tensor; V may be in one map with W_1. f is any elementwise function: a module,
    an attribute, or a function that the code calls. The plan lists what was passed over, with the
    reason.

    The coefficients have the device and dtype of the weights, and the names ``<activation>.*``; a
    called function becomes ``<module>.act``. They are trainable, even if the weights are not.

    Args:
        model: is changed, unless ``dry_run`` or an error is raised.
        only: the MLPs to replace: an index in the order in which they are found; a name or a glob
            that matches the name of the activation or of a module around it, or the end of one
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"mlp"``); a regular expression, as
            ``re.compile`` makes it, that matches such a name as a whole; or several of these. By
            default all but heads: those that change the width outside of the numbered blocks which
            have the others, as BERT's prediction head does.
        exclude: MLPs to leave as they are, selected in the same ways.
        config: the settings of the rationals. To give some MLPs other settings, call again.
        calibration: batches to run the model on. Each F is then fitted by least squares to the
            inputs of its activation, weighted by their effect on the output of the MLP, and only
            loosely on the interval. An F that no batch reaches is fitted on the interval. This
            needs the extra ``[fit]``.
        run: how to run a batch, by default ``model(**batch)`` for a mapping, ``model(*batch)`` for
            a tuple or list, and ``model(batch)`` for anything else.
        dry_run: only make the plan.

    Returns:
        The plan: ``print`` shows it, ``save()`` writes the input of
        :func:`kat.models.kanify.kanify_like`. To keep the original model, pass a
        ``copy.deepcopy`` of it.

    Warns:
        UserWarning: the error of a fit is above 1 % of the activation, as for ReLU, whose kink no
            rational of degree (5, 4) follows.

    Raises:
        InputError: nothing to replace, a selection that matches nothing, groups that do not divide
            a width, calibration that reaches no MLP, a model that is already wrapped by DDP or
            FSDP.
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
        1    16-64-4  gelu      8       38          3.1e-03  2.2e-03  [-6, 6]
        MLPs: 1, parameters added: 38, in place
        >>> bool((model(x) - before).abs().max() < 0.01)
        True
    """
    if isinstance(calibration, Mapping | str | torch.Tensor):
        raise InputError("calibration must be an iterable of batches; put one in a list: [batch]")
    check_plain(model)
    found = find(model)
    mlps = _chosen(model, found, only, exclude)
    config = config or KanifyConfig()
    on_interval = cache(fit_on_interval)
    dtypes = {mlp: device_and_dtype(model, mlp)["dtype"] for mlp in mlps}
    functions = {mlp: found.functions[mlp.activation] for mlp in mlps}
    fitted = {mlp: on_interval(functions[mlp], config, dtypes[mlp]) for mlp in mlps}
    replacements = [Replacement.make(mlp, fitted[mlp], config) for mlp in mlps]
    # Calibration runs the model; everything that can fail without it has been checked before.
    if calibration is not None:
        with needed_by("calibration", "fit"):
            import kat.nn.fitting  # noqa: F401
        seen = seen_inputs(model, mlps, calibration, run, config.interval)
        for mlp, inputs in seen.items():
            fitted[mlp] = fit_to_inputs(functions[mlp], fitted[mlp], inputs, dtypes[mlp])
        replacements = [Replacement.make(mlp, fitted[mlp], config) for mlp in mlps]
    head = "it is no MLP of a block, but changes the width outside, as a head; only= can name it"
    heads = {name: head for name in found.heads if all(name != mlp.activation for mlp in mlps)}
    plan = Plan(model, replacements, found.skipped | heads)
    _warn_of_large_errors(replacements)
    if not dry_run:
        plan.apply()
    return plan


def check_plain(model: nn.Module) -> None:
    """Check that no part of a model is wrapped by DDP or FSDP, and that it is not compiled.

    Raises:
        InputError: it is; the message has the order.
    """
    if type(model).__name__ == "OptimizedModule" or isinstance(model, torch.jit.ScriptModule):
        raise InputError("the model is compiled already; change the model first, then compile it")
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # slow to import
    sharded = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule) if fsdp else ()
    for name, module in model.named_modules():
        if isinstance(module, (DataParallel, DistributedDataParallel, *sharded)):
            raise InputError(
                f"{name or 'the model'} is wrapped by {type(module).__name__} already, which would"
                " not know of new parameters: first change the model by kat.kanify or kat.adapt,"
                " then wrap it, then make the optimizer"
            )


def _chosen(
    model: nn.Module, found: Found, only: Selection | None, exclude: Selection | None
) -> list[Mlp]:
    """The MLPs that are selected; by default all but heads."""
    if not found.mlps:
        reasons = [f"; {name}: {reason}" for name, reason in found.skipped.items()]
        raise InputError(
            f"{type(model).__name__} has no MLP to replace, that is a linear map, an activation,"
            f" and a linear map{'; it has rationals already' if rationals(model) else ''}"
            + "".join(reasons[:3])
        )
    activations = [mlp.activation for mlp in found.mlps]
    names = selected(activations, "MLP", only, exclude, found.skipped)
    if only is None:
        names = [name for name in names if name not in found.heads] or names
    return [mlp for mlp in found.mlps if mlp.activation in names]


def _warn_of_large_errors(replacements: list[Replacement]) -> None:
    errors = [replacement.fitted.relative_error for replacement in replacements]
    large = sum(error > _LARGE_ERROR for error in errors)
    if large:
        worst = replacements[errors.index(max(errors))].mlp
        warnings.warn(
            f"kanify: the fit to {worst.function} in {worst.activation} is off by"
            f" {100 * max(errors):.2g} % of its size, and {large} of {len(errors)} fits by more"
            f" than {100 * _LARGE_ERROR:.0f} %, so the model's output changes."
            " calibration=BATCHES reduces this, as do a narrower interval and a higher degree in"
            " config=kat.KanifyConfig(...)",
            stacklevel=3,
        )


def kanify_like(model: nn.Module, record: Mapping[str, Any] | str | Path) -> Plan:
    """Kanify a model like another one of the same structure, ready for its state dict.

    Args:
        model: is changed in place.
        record: what :meth:`Plan.record` returns, or the file that :meth:`Plan.save` wrote.

    Raises:
        InputError: the record does not fit the model, which is then unchanged.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> from kat.models.kanify import kanify_like
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> other = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> _ = kanify_like(other, plan.record())
        >>> other.load_state_dict(plan.model.state_dict())
        <All keys matched successfully>
    """
    content: Any = read_json(Path(record)) if isinstance(record, str | Path) else record
    if not isinstance(content, Mapping) or content.get("kanify") != VERSION:
        raise InputError(f"this is no record of kanify of version {VERSION}")
    replacements = []
    for entry in content["mlps"]:
        lists = {key: tuple(value) for key, value in entry["mlp"].items() if type(value) is list}
        mlp = Mlp(**{**entry["mlp"], **lists})
        if not _has(model, mlp):
            raise InputError(
                f"the record is of another model: there is no MLP at {mlp.activation} of the widths"
                f" {mlp.widths}, with {mlp.function}"
            )
        coefficients = Coefficients.from_dict(entry["fitted"]["coefficients"], "the record")
        fitted = Fitted(**{**entry["fitted"], "coefficients": coefficients})
        config = KanifyConfig(**entry["rational"])
        replacements.append(Replacement.make(mlp, fitted, config))
    plan = Plan(model, replacements, {})
    plan.apply()
    return plan


def _has(model: nn.Module, mlp: Mlp) -> bool:
    """Return True if a model has this MLP."""
    try:
        names = (mlp.owner, mlp.first, mlp.second)
        owner, first, second = (model.get_submodule(name) for name in names)
        activation = activation_of(model, mlp)
        holders = [name.rpartition(".") for name in mlp.followed]
        codes = [codes_of(model, holder)[function] for holder, _, function in holders]
    except (AttributeError, LookupError):
        return False
    before, after, experts = linear_map(first), linear_map(second), expert_widths(owner)
    widths = (before.d_in, after.d_in, after.d_out) if before and after else (experts or ())[:3]
    function = activation_function(activation)
    name = function.name if function else kind_of(activation)  # without values, on meta
    is_same = widths == mlp.widths and name == mlp.function
    return is_same and all(code.graphs for code in codes)


def note_shares(model: nn.Module) -> None:
    """Bring the coefficients shared up to date in what a model's configuration records."""
    for record in recorded(model):
        acts = rationals(root_of(model, record))
        for entry in record.get("mlps", ()):
            if entry["mlp"]["activation"] in acts:  # a part of the model lacks some
                entry["rational"]["share"] = acts[entry["mlp"]["activation"]].share
