"""Making adapters, and loading them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from kat.documents import read_json
from kat.errors import InputError, unknown
from kat.extras import require
from kat.files import open_input
from kat.models.adapt.adapters import CONFIG, KEY, KINDS, VERSION, WEIGHTS, Adapters, Kind, Place
from kat.models.kanify.api import check_plain
from kat.models.selection import Parts, Selection
from kat.nn import GroupRational, rationals
from kat.text import listing


def adapt(
    model: nn.Module,
    kind: Kind,
    only: Selection | None = None,
    *,
    exclude: Selection | None = None,
    rank: int | None = None,
    modules_to_save: Selection | None = None,
    freeze: bool = True,
) -> Adapters:
    """Make a trained model adaptable by few parameters, in place; its function is unchanged.

        "rational"    F with A + D diag(s), A its coefficients, D trained
        "low_rank"    F with A + (U V) diag(s), U (G, rank) and V (rank, k) trained

    D and U are 0 at the start. s_c = 1 / max |dF/dc| on [-6, 6] for the coefficients c of each
    power, so that steps of one size move F by as much at every power. Trained parameters are
    float32 where the model is in lower precision. :func:`kat.param_groups` gives D, U and V a
    learning rate of their own and no weight decay.

    Args:
        model: a model with rationals, such as a KAT, or one after :func:`kat.kanify`, before it is
            compiled, or wrapped for several processes.
        kind: of the adapters.
        only: the rationals, all by default: an index; a name or a glob that matches the name, or
            the name of a module around it, or the end of one (``"blocks.0"``,
            ``"encoder.layer.[0-3]"``, ``"act2"``); a regular expression (``re.compile``) that
            matches such a name as a whole; a function of the module and its name; or several of
            these.
        exclude: what is left out, selected in the same ways.
        rank: of low-rank changes, 2 by default.
        modules_to_save: other modules that are trained and saved too, such as a new head, selected
            in the same ways.
        freeze: freeze all else but adapters that were made before. False leaves it as it is, beside
            PEFT's LoRA for instance.

    Returns:
        The adapters: ``print`` shows them, ``save(folder)`` writes them alone,
        :func:`kat.models.adapt.load_adapters` loads that, ``merge()`` leaves a plain model, and
        ``remove()`` the model before.

    Raises:
        InputError: a model without rationals, or one that is wrapped or adapted there already; a
            selection that matches nothing; an unknown kind; a rank for another kind.

    Source: low-rank coefficients: NoRA, arXiv 2509.13240.

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
        trainable: 52 of 1476 parameters
        >>> optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-3))
    """
    if kind not in KINDS:
        raise unknown("kind of adapter", str(kind), KINDS)
    if rank is not None and kind != "low_rank":
        raise InputError(f"rank={rank!r} has no meaning for adapters of the kind {kind!r}")
    check_plain(model)
    if kind == "low_rank" and rank is None:
        rank = 2
    found = {name: {**_shape(act), "rank": rank} for name, act in rationals(model).items()}
    if not found:
        raise InputError(
            f"{type(model).__name__} has no rational; kat.kanify(model) puts rationals in the place"
            " of its activations"
        )
    names = Parts(model, {name: name for name in found}, "rational").selected(only, exclude)
    saved: list[str] = []
    if modules_to_save is not None:
        modules = {name: name for name, _ in model.named_modules() if name}
        chosen = Parts(model, modules, "module").selected(modules_to_save)
        saved = [n for n in chosen if not any(n.startswith(f"{other}.") for other in chosen)]
    return _put(Adapters(model, kind, {name: found[name] for name in names}, saved, freeze))


def _put(adapters: Adapters) -> Adapters:
    for name in adapters.places:
        if parametrize.is_parametrized(adapters.model.get_submodule(name)):
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
    check_plain(model)
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict) or record.get(KEY) != VERSION:
        raise InputError(f"{folder / CONFIG} is not of kat.adapt, version {VERSION}")
    open_input(folder / WEIGHTS).close()
    state = require("safetensors.torch", "loading adapters").load_file(folder / WEIGHTS)
    adapters = _put(_of_record(model, {**record, "freeze": freeze}))
    try:
        adapters.load_state_dict(state)
    except InputError:
        adapters.remove()
        raise
    return adapters


def _shape(act: GroupRational) -> Place:
    """The settings that must be equal in a model that the coefficients are loaded into."""
    settings = {"num_groups": act.num_groups, "degree": list(act.degree)}
    return {**settings, "form": act.form, "share": act.share}


def _of_record(model: nn.Module, record: Mapping[str, Any]) -> Adapters:
    """The adapters of a record, checked against the model, and not yet in place."""
    modules, saved = dict(model.named_modules()), list(record["modules_to_save"])
    lacking = [name for name in saved if name not in modules]
    for name, place in record["places"].items():
        act = modules.get(name)
        if not isinstance(act, GroupRational) or not _shape(act).items() <= place.items():
            lacking.append(name)
    if lacking:
        raise InputError(
            f"the adapters are of another model, which has {listing(lacking)} of other shapes; a"
            " model that was kanified for training must be kanified before loading, by kanify_like"
        )
    return Adapters(model, record["kind"], dict(record["places"]), saved, record["freeze"])
