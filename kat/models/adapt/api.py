"""Making adapters, and loading them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kat.documents import read_json
from kat.errors import InputError, check_choice, check_count
from kat.extras import require
from kat.files import open_input
from kat.models.adapt.adapters import CONFIG, KEY, KINDS, VERSION, WEIGHTS, Adapters, Kind, Place
from kat.models.adapt.changes import is_adapted
from kat.models.config_record import recorded, root_of
from kat.models.kanify.api import unwrapped
from kat.models.kanify.find import find
from kat.models.kanify.layers import linear_map
from kat.models.selection import Selection, selected
from kat.nn import GRKANMlp, GroupRational, rationals
from kat.text import listing

_HINTS = {
    "rational": "; kat.kanify(model) puts rationals in the place of its activations",
    "MLP": " that an adapter could be put beside: gated ones of kat and any with an adapter do not"
    " count, and kat.kanify hides those that it takes, so adapt first",
}
"""Advice in the error for a model without rationals."""


def adapt(
    model: nn.Module,
    kind: Kind,
    only: Selection | None = None,
    *,
    exclude: Selection | None = None,
    rank: int | None = None,
    width: int | None = None,
    modules_to_save: Selection | None = None,
    freeze: bool = True,
) -> Adapters:
    """Add adapters, a few trainable parameters, to a trained model in place; it computes the same.

    Use this when you fine-tune a model for many tasks and can store only a few kilobytes for each.

        "rational"    F with A + D diag(s), A its coefficients, D trained
        "low_rank"    F with A + (U V) diag(s), U (G, rank) and V (rank, k) trained
        "parallel"    y + W_2 F(W_1 x + b_1) + b_2 beside an MLP from x to y, all of it trained

    D, U, W_2 and b_2 are 0 at the start. s_c = 1 / max |dF/dc| on [-6, 6] for the coefficients c of
    each power, so that steps of one size move F by as much at every power.

    The first two are for models with rationals: a KAT, or a model after :func:`kat.kanify`. Trained
    parameters are float32 even if the model has lower precision. :func:`kat.param_groups` gives
    D, U, V and the bottleneck's coefficients their own learning rate and no weight decay.

    Args:
        model: any model, before it is compiled, or wrapped for several processes.
        kind: of the adapters.
        only: the rationals, or the MLPs by their last linear map, all by default: an index; a name
            or a glob that matches the name, or the name of a module around it, or the end of one
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"act2"``); a regular expression
            (``re.compile``) that matches such a name as a whole; or several of these.
        exclude: what to leave out, selected in the same ways.
        rank: of low-rank changes, 2 by default.
        width: of the bottleneck of parallel adapters, 16 by default.
        modules_to_save: other modules to train and save, such as a new head, selected in the same
            ways.
        freeze: freeze everything else except earlier adapters. False changes nothing else, for
            example if the model also has PEFT's LoRA.

    Returns:
        The adapters: ``print`` shows them, ``save(folder)`` writes only them,
        :func:`kat.models.adapt.load_adapters` loads the folder, ``merge()`` leaves a model without
        adapters that computes the same, and ``remove()`` restores the model before the call.

    Raises:
        InputError: a model without rationals or MLPs, or one that is wrapped or adapted there
            already; a selection that matches nothing; an unknown kind; a rank or width that is not
            of this kind.

    Source: low-rank coefficients: NoRA, arXiv 2509.13240; parallel: AdaptFormer, arXiv 2205.13535.

    Examples:
        >>> import torch
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> _ = kat.kanify(model)
        >>> adapters = kat.adapt(model, "low_rank", "1", rank=2)
        >>> print(adapters)
        adapter  kind      trainable
        1        low_rank  52
        trainable: 52 of 1438 parameters
        >>> optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-3))
    """
    check_choice("kind", kind, KINDS)
    for name, value, applies in (("rank", rank, "low_rank"), ("width", width, "parallel")):
        if value is not None:
            check_count(name, value)
            if kind != applies:
                raise InputError(f"{name}={value} has no meaning for adapters of the kind {kind!r}")
    model = unwrapped(model)
    if kind == "parallel":
        found, what = _mlps(model, 16 if width is None else width), "MLP"
    else:
        if kind == "low_rank" and rank is None:
            rank = 2
        what = "rational"
        found = {name: {**_shape(act), "rank": rank} for name, act in rationals(model).items()}
    if not found:
        raise InputError(f"{type(model).__name__} has no {what}{_HINTS[what]}")
    names = selected(found, what, only, exclude)
    saved: list[str] = []
    if modules_to_save is not None:
        modules = [name for name, _ in model.named_modules() if name]
        chosen = selected(modules, "module", modules_to_save)
        inside = tuple(f"{name}." for name in chosen)
        saved = [name for name in chosen if not name.startswith(inside)]
    return _put(Adapters(model, kind, {name: found[name] for name in names}, saved, freeze))


def _put(adapters: Adapters) -> Adapters:
    for name in adapters.places:
        if is_adapted(adapters.model.get_submodule(name)):
            raise InputError(f"{name} has an adapter already; merge() or remove() it first")
    adapters.put()
    return adapters


def load_adapters(model: nn.Module, folder: str | Path, *, freeze: bool = True) -> Adapters:
    """Put saved adapters into a model like the one that they were trained in.

    Args:
        model: as before :func:`kat.adapt`: with the same weights, and rationals in the same places.
        folder: where :meth:`Adapters.save` wrote them.
        freeze: as in :func:`kat.adapt`.

    Raises:
        InputError: the folder is not readable or not of kat.adapt, or does not fit the model, which
            is then unchanged.
        MissingPackage: safetensors is missing.

    Examples:
        >>> import kat
        >>> from kat.models.adapt import load_adapters
        >>> kat.adapt(kat.GRKANMlp(16, 64), "rational").save("adapter")
        >>> adapters = load_adapters(kat.GRKANMlp(16, 64), "adapter")
        >>> adapters.kind, list(adapters.modules)
        ('rational', ['act1', 'act2'])
    """
    folder = Path(folder)
    model = unwrapped(model)
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict) or record.get(KEY) != VERSION:
        raise InputError(f"{folder / CONFIG} is not of kat.adapt, version {VERSION}")
    open_input(folder / WEIGHTS).close()
    state = require("safetensors.torch", "loading adapters").load_file(folder / WEIGHTS)
    adapters = adapt_like(model, {**record, "freeze": freeze})
    try:
        adapters.load_state_dict(state)
    except InputError:
        adapters.remove()
        raise
    return adapters


def adapt_like(model: nn.Module, record: Mapping[str, Any]) -> Adapters:
    """Make the adapters of a record in a model of the same structure, with the initial values.

    Raises:
        InputError: the record does not fit the model, which is then unchanged.
    """
    modules = dict(model.named_modules())
    lacking = [name for name, place in record["places"].items() if not _has(modules, name, place)]
    if lacking:
        raise InputError(
            f"the adapters are of another model, which has {listing(lacking)} of other shapes; a"
            " model that was kanified for training must be kanified before loading, by kanify_like"
        )
    return _put(_of_record(model, record, in_place=False))


def adapters_of(model: nn.Module) -> list[Adapters]:
    """Return the adapters in a model that :func:`kat.models.load_pretrained` has loaded.

    They are as :func:`kat.adapt` returned them, but :meth:`Adapters.remove` leaves the modules that
    are saved with them as they were loaded, and what is frozen frozen.

    Args:
        model: of transformers.

    Returns:
        Those in place, in the order in which they were made.

    Examples:
        >>> import kat
        >>> from kat.models.adapt import adapters_of
        >>> from transformers import LlamaConfig, LlamaModel
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        >>> model = LlamaModel(LlamaConfig(num_hidden_layers=1, vocab_size=50, **size))
        >>> adapters = kat.adapt(model, "parallel")
        >>> model.save_pretrained("folder")
        >>> again = kat.models.load_pretrained(LlamaModel, "folder")
        >>> list(adapters_of(again)[0].modules)
        ['layers.0.mlp.down_proj.parallel']
    """
    records = [record for record in recorded(model) if KEY in record]
    return [_of_record(root_of(model, record), record, in_place=True) for record in records]


def _mlps(model: nn.Module, width: int) -> dict[str, Place]:
    """Return the MLPs of a model, with rationals or without, by the name of their last module."""
    ends = {
        name: (name, module.fc1.in_features, module.fc2.out_features)
        for name, module in model.named_modules()
        if isinstance(module, GRKANMlp)
    }
    found = find(model)
    for mlp in found.mlps.values():
        maps = [linear_map(model.get_submodule(name)) for name in (mlp.first, mlp.second)]
        if mlp.activation not in found.skipped and all(m and m.channel_dim == -1 for m in maps):
            d_in, _, d_out = mlp.widths
            ends[mlp.second] = (mlp.first, d_in, d_out)  # not experts, nor convolutions
    return {
        last: {"first": first, "widths": [d_in, width, d_out]}
        for last, (first, d_in, d_out) in ends.items()
    }


def _shape(act: GroupRational) -> Place:
    """Return the settings that must be equal in a model that the coefficients are loaded into."""
    settings = {"num_groups": act.num_groups, "degree": list(act.degree)}
    return {**settings, "form": act.form, "share": act.share}


def _has(modules: Mapping[str, nn.Module], name: str, place: Place) -> bool:
    """Return True if a model has the rational or the MLP of a record."""
    last = modules.get(name, nn.Identity())
    if "widths" not in place:
        return isinstance(last, GroupRational) and _shape(last).items() <= place.items()
    first, widths = modules.get(place["first"], nn.Identity()), place["widths"][::2]
    if isinstance(last, GRKANMlp):
        return [last.fc1.in_features, last.fc2.out_features] == widths
    before, after = linear_map(first), linear_map(last)
    return before is not None and after is not None and [before.d_in, after.d_out] == widths


def _of_record(model: nn.Module, record: Mapping[str, Any], *, in_place: bool) -> Adapters:
    """Return the adapters of a record; a model with another head lacks places and modules."""
    modules = dict(model.named_modules())
    places = {name: place for name, place in record["places"].items() if name in modules}
    saved = [name for name in record["modules_to_save"] if name in modules]
    return Adapters(model, record["kind"], places, saved, record["freeze"], _in_place=in_place)
