"""Kanify: find activations, plan, replace, calibrate; and the same from the record of a plan."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kat.documents import read_json
from kat.errors import InputError, check_choice, check_is
from kat.extras import needed_by
from kat.models.config_record import recorded, root_of
from kat.models.kanify.calibrate import Run, run_batch, seen_inputs
from kat.models.kanify.find import UNCLEAR, Found, find
from kat.models.kanify.fit import (
    Fitted,
    KanifyConfig,
    activation_function,
    fit_on_interval,
    fit_to_inputs,
    kind_of,
)
from kat.models.kanify.layers import layer_of
from kat.models.kanify.plan import VERSION, Plan, Replacement, by_reason, device_and_dtype
from kat.models.kanify.walk import Site
from kat.models.selection import Selection, selected
from kat.nn import Coefficients, rationals

What = Literal["mlps", "activations"]


def kanify(
    model: nn.Module,
    only: Selection | None = None,
    *,
    what: What = "mlps",
    exclude: Selection | None = None,
    config: KanifyConfig | None = None,
    calibration: Iterable[Any] | None = None,
    run: Run = run_batch,
    dry_run: bool = False,
) -> Plan:
    """Make the activations of a trained model learnable, in place; it computes the same function.

    Use this when you have a trained model of any library and want its activations to learn. Each
    activation f becomes a rational F with learnable coefficients, which starts as a fit to f. So
    the output changes by the error of the fit. All other modules stay as they are, and so do their
    names.

        what="mlps"          the activations of MLPs: W_2 f(W_1 x + b_1) + b_2, and gated ones,
                             W_2 (f(W_1 x + b_1) * (V x + c)) + b_2
        what="activations"   all activations, as those after convolutions and norms, too

    f is any elementwise function, a module or a function that a module holds as an attribute. The
    function traces the model's code to find what stands around it. W_1, W_2 and V are
    ``nn.Linear``, transformers' ``Conv1D``, PyTorch Geometric's ``Linear`` and 1x1 convolutions, or
    the experts of a mixture in one tensor; V may be in one map with W_1. The plan lists what was
    passed over, with the reason. For a function that code calls, as ``F.gelu(x)``, it has the two
    lines to write instead.

    The coefficients have the device and dtype of the weights, and the names ``<activation>.*``.
    They are trainable, even if the weights are not. An activation that is called several times is
    one rational.

    Args:
        model: is changed, unless ``dry_run`` or an error is raised.
        only: the activations to replace: an index in the order in which they are found; a name or a
            glob that matches the name of the activation or of a module around it, or the end of one
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"mlp"``); a regular expression, as
            ``re.compile`` makes it, that matches such a name as a whole; or several of these. By
            default all, but of MLPs no heads: those that change the width outside of the numbered
            blocks which have the others, as BERT's prediction head does.
        what: ``"mlps"`` or ``"activations"``.
        exclude: activations to leave as they are, selected in the same ways.
        config: the settings of the rationals. To give some of them other settings, call again.
        calibration: batches to run the model on. Each F is then fitted by least squares to the
            inputs of its activation, weighted by their effect on the output of the MLP, and only
            loosely on the interval. An F that no batch reaches is fitted on the interval. The
            batches also show the channels of an activation where the code does not. This needs the
            extra ``[fit]``.
        run: how to run a batch, by default ``model(**batch)`` for a mapping, ``model(*batch)`` for
            a tuple or list, and ``model(batch)`` for anything else.
        dry_run: only make the plan.

    Returns:
        The plan: ``print`` shows it, ``save()`` writes the input of
        :func:`kat.models.kanify.kanify_like`. To keep the original model, pass a
        ``copy.deepcopy`` of it.

    Warns:
        UserWarning: the error of a fit is above 1 % of the activation, as for ReLU, whose kink no
            rational of degree (5, 4) follows; or the batches cover too little of its range.

    Raises:
        InputError: nothing to replace, a selection that matches nothing, groups that do not divide
            a width, calibration on which the model fails or that reaches no activation, a model
            that is compiled or wrapped by DDP or FSDP.
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
        activation  widths   function  groups  parameters  error    RMS      on
        1           16-64-4  gelu      8       38          3.1e-03  2.2e-03  [-6, 6]
        activations: 1, parameters added: 38, in place
        not calibrated: 1; calibration=BATCHES fits them to your data
        >>> bool((model(x) - before).abs().max() < 0.01)
        True
    """
    check_choice("what", what, get_args(What))
    if isinstance(calibration, Mapping | str | torch.Tensor):
        raise InputError("calibration must be an iterable of batches; put one in a list: [batch]")
    model = unwrapped(model)
    config = config or KanifyConfig()
    check_is("config", config, KanifyConfig)
    found = find(model)
    sites = _chosen(found, what, only, exclude)
    on_interval = cache(fit_on_interval)
    fitted = {}
    for name, site in sites.items():
        dtype = device_and_dtype(model, site)["dtype"]
        fitted[name] = on_interval(found.functions[name], config, dtype)
    if calibration is not None:
        with needed_by("calibration", "fit"):
            import kat.nn.fitting  # noqa: F401
        seen = seen_inputs(model, [*sites.values()], calibration, run, config.interval)
        for name, (site, inputs) in seen.items():
            sites[name] = site
            dtype = device_and_dtype(model, site)["dtype"]
            fitted[name] = fit_to_inputs(found.functions[name], fitted[name], inputs, dtype)
    skipped = {name: reason for name, reason in found.skipped.items() if name not in sites}
    replacements = []
    for name, site in sites.items():
        if site.widths:
            replacements.append(Replacement.make(site, fitted[name], config))
        else:
            skipped[name] = f"{found.skipped[name]}; {UNCLEAR}"
    if not replacements:
        raise InputError("\n".join(["no activation can be replaced", *by_reason(skipped)]))
    others = len(found.sites) - len(found.mlps) if what == "mlps" else 0
    plan = Plan(model, replacements, skipped, others=others)
    if plan.advice():
        warnings.warn(f"kanify: {plan.advice()}", stacklevel=2)
    if not dry_run:
        plan.apply()
    return plan


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a model that may be changed: the one inside PEFT's, which saves and loads alone.

    Raises:
        InputError: a part is compiled, or wrapped by DDP or FSDP; the message has the order.
    """
    check_is("model", model, nn.Module)
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # slow to import
    sharded = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule) if fsdp else ()
    wrappers = (DataParallel, DistributedDataParallel, *sharded)
    is_script = isinstance(model, torch.jit.ScriptModule)
    for name, module in model.named_modules():
        kind = type(module).__name__
        if is_script or kind == "OptimizedModule" or isinstance(module, wrappers):
            raise InputError(
                f"{name or 'the model'} is wrapped by {kind} already, which would not know of new"
                " parameters: first change the model by kat.kanify or kat.adapt, then wrap it, then"
                " make the optimizer, then compile it"
            )
    inside: Any = getattr(model, "get_base_model", lambda: model)
    base: nn.Module = inside()
    return base


def _chosen(
    found: Found, what: What, only: Selection | None, exclude: Selection | None
) -> dict[str, Site]:
    """Return the selected activations by name; by default all but the heads among MLPs."""
    sites, kind = found.sites, "activation"
    if what == "mlps":
        sites, kind = found.mlps, "MLP (linear map, activation, linear map)"
        if found.sites:
            kind += f'; what="activations" takes {len(found.sites)} activations'
    if not sites:
        raise InputError("\n".join([f"the model has no {kind}", *by_reason(found.skipped)]))
    names = selected(sites, what[:-1], only, exclude, found.skipped)
    if only is None and what == "mlps":
        names = [name for name in names if name not in found.skipped] or names
    return {name: sites[name] for name in names}


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
        site = Site(**{**entry["mlp"], "widths": tuple(entry["mlp"]["widths"])})
        try:
            activation = attrgetter(site.activation)(model)
            layer = layer_of(model.get_submodule(site.second or site.first))
        except AttributeError:
            activation = layer = None
        function = activation_function(activation)
        name = function.name if function else kind_of(activation)  # without values, on meta
        if isinstance(activation, nn.Module) and [*activation.parameters()]:
            name = site.function  # by its parameters, which the model may have learned
        ends = layer and layer[: 1 if site.second else 2]
        if name != site.function or (ends and {*ends}.isdisjoint(site.channels)):
            raise InputError(
                f"the record is of another model: {site.activation} is no {site.function} of the"
                f" widths {site.widths}"
            )
        coefficients = Coefficients.from_dict(entry["fitted"]["coefficients"], "the record")
        fitted = Fitted(**{**entry["fitted"], "coefficients": coefficients})
        config = KanifyConfig(**entry["rational"])
        replacements.append(Replacement.make(site, fitted, config))
    plan = Plan(model, replacements, {})
    plan.apply()
    return plan


def note_shares(model: nn.Module) -> None:
    """Bring the coefficients shared up to date in what a model's configuration records."""
    for record in recorded(model):
        acts = rationals(root_of(model, record))
        for entry in record.get("mlps", ()):
            if entry["mlp"]["activation"] in acts:  # a part of the model lacks some
                entry["rational"]["share"] = acts[entry["mlp"]["activation"]].share
